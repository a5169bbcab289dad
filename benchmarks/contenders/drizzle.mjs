// Drizzle on postgres.js as its documentation shows it; the same commands and answers as benchmarks/worker.py.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { randomUUID } from "node:crypto";

const require = createRequire(`${process.argv[2]}/package.json`);
const postgres = require("postgres");
const { drizzle } = require("drizzle-orm/postgres-js");
const { and, asc, desc, eq, getTableColumns, gt, isNull, sql } = require("drizzle-orm");
const { bigint, boolean, integer, jsonb, pgTable, text, timestamp, uuid } = require("drizzle-orm/pg-core");

const POOL_SIZE = 16;
const time = (name) => timestamp(name, { withTimezone: true });
const count = (name) => bigint(name, { mode: "number" });

const users = pgTable("users", {
  id: uuid("id").primaryKey(), tenantId: uuid("tenant_id"), telegramId: count("telegram_id"), username: text("username"),
  displayName: text("display_name"), locale: text("locale"), timezone: text("timezone"), isActive: boolean("is_active"),
  lastSeenAt: time("last_seen_at"), createdAt: time("created_at"), preferences: jsonb("preferences"),
  deletedAt: time("deleted_at"),
});
const conversations = pgTable("conversations", {
  id: uuid("id").primaryKey(), tenantId: uuid("tenant_id"), userId: uuid("user_id"), sessionId: text("session_id"),
  isActive: boolean("is_active"), channel: text("channel"), externalChatId: text("external_chat_id"),
  title: text("title"), summary: text("summary"), summaryUptoSeq: count("summary_upto_seq"), lastSeq: count("last_seq"),
  lastMessageAt: time("last_message_at"), createdAt: time("created_at"), deletedAt: time("deleted_at"),
});
const messages = pgTable("message_history", {
  id: uuid("id").primaryKey(), tenantId: uuid("tenant_id"), conversationId: uuid("conversation_id"),
  userId: uuid("user_id"), seq: count("seq"), messageId: text("message_id"), role: text("role"),
  content: text("content"), parts: jsonb("parts"), attachments: jsonb("attachments"), parentId: uuid("parent_id"),
  toolCallId: text("tool_call_id"), toolName: text("tool_name"), model: text("model"),
  inputTokens: integer("input_tokens"), outputTokens: integer("output_tokens"), tokenCount: integer("token_count"),
  state: text("state"), createdAt: time("created_at"), editedAt: time("edited_at"), extra: jsonb("metadata"),
  deletedAt: time("deleted_at"),
});

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (answer) => writeFileSync(1, `${JSON.stringify(answer)}\n`);
const sample = JSON.parse((await lines.next()).value);
const client = postgres({
  host: `${sample.place.host}/.s.PGSQL.5432`, path: `${sample.place.host}/.s.PGSQL.5432`, username: sample.place.user,
  database: sample.place.database, max: POOL_SIZE,
});
const db = drizzle(client);

const any = (list) => list[Math.floor(Math.random() * list.length)];
const isNew = () => Math.random() < 0.1;
const newId = () => Date.now() * 1000 + Math.floor(Math.random() * 1000);
const run = randomUUID().slice(0, 8);
let number = 0;
const message = (role = "user") => {
  number += 1;
  return {
    messageId: `node:${run}:${number}`, role, tokenCount: 15, createdAt: new Date(),
    content: `A message of some length, as people write them, and answers are longer still: ${number}`,
  };
};

const userOf = (tenant, telegramId) =>
  and(eq(users.tenantId, tenant), eq(users.telegramId, telegramId), isNull(users.deletedAt));
const chatOf = (tenant, userId, chat) => and(
  eq(conversations.tenantId, tenant), eq(conversations.userId, userId), eq(conversations.channel, "telegram"),
  eq(conversations.externalChatId, chat), eq(conversations.isActive, true), isNull(conversations.deletedAt));
const { deletedAt: _, tenantId: __, ...shown } = getTableColumns(messages);
const of = (on, tenant, conversationId, ...more) => on.select(shown).from(messages).where(
  and(eq(messages.tenantId, tenant), eq(messages.conversationId, conversationId), isNull(messages.deletedAt), ...more));
const advance = async (tx, tenant, conversationId, all) => (await tx.update(conversations)
  .set({ lastSeq: sql`${conversations.lastSeq} + ${all.length}`, lastMessageAt: all.at(-1).createdAt })
  .where(and(eq(conversations.tenantId, tenant), eq(conversations.id, conversationId)))
  .returning({ lastSeq: conversations.lastSeq, userId: conversations.userId }))[0];
const rowsOf = (tenant, conversationId, { lastSeq, userId }, all) => all.map((one, place) => ({
  ...one, id: randomUUID(), tenantId: tenant, conversationId, userId, seq: lastSeq - all.length + 1 + place,
}));
const append = (tenant, conversationId, all) => db.transaction(async (tx) => {
  await tx.insert(messages).values(
    rowsOf(tenant, conversationId, await advance(tx, tenant, conversationId, all), all));
  return all.length;
});

// Each is called with the rows of many tenants or of one, and returns the number of rows that it read or wrote.
const operations = {
  user_by_telegram_id: async (rows) => {
    const [tenant, , telegramId] = any(rows.people);
    return (await db.select().from(users).where(userOf(tenant, telegramId)).limit(1)).length;
  },
  get_or_create_user: async (rows) => {
    const [tenant, , known] = any(rows.people);
    const telegramId = isNew() ? newId() : known;
    const found = await db.select().from(users).where(userOf(tenant, telegramId)).limit(1);
    if (found.length) return 1;
    return (await db.insert(users).values({ id: randomUUID(), tenantId: tenant, telegramId })
      .onConflictDoNothing().returning()).length;
  },
  get_or_start: async (rows) => {
    const [tenant, userId, , known] = any(rows.people);
    const chat = isNew() ? String(newId()) : known;
    const found = await db.select().from(conversations).where(chatOf(tenant, userId, chat)).limit(1);
    if (found.length) return 1;
    return (await db.insert(conversations).values({
      id: randomUUID(), tenantId: tenant, userId, sessionId: randomUUID(), channel: "telegram", externalChatId: chat,
    }).returning()).length;
  },
  append: (rows) => append(...any(rows.conversations), [message()]),
  append_many: (rows) => append(...any(rows.conversations), Array.from({ length: rows.bulk }, () => message())),
  recent: async (rows) =>
    (await of(db, ...any(rows.conversations)).orderBy(desc(messages.seq)).limit(50)).reverse().length,
  turn: (rows) => db.transaction(async (tx) => {
    const [tenant, , telegramId, chat] = any(rows.people);
    const [user] = await tx.select().from(users).where(userOf(tenant, telegramId)).limit(1);
    const [conversation] = await tx.select().from(conversations).where(chatOf(tenant, user.id, chat));
    const before = await of(tx, tenant, conversation.id).orderBy(desc(messages.seq)).limit(20);
    const all = [message(), message("assistant")];
    await tx.insert(messages).values(
      rowsOf(tenant, conversation.id, await advance(tx, tenant, conversation.id, all), all));
    return before.length;
  }),
  pages: async (rows) => {
    const [tenant, conversationId] = any(rows.long_conversations);
    let [seen, seq] = [0, 0];
    for (let page = 0; page < rows.long / 100; page += 1) {
      const found = await of(db, tenant, conversationId, gt(messages.seq, seq)).orderBy(asc(messages.seq)).limit(100);
      seen += found.length;
      seq = found.at(-1).seq;
    }
    return seen;
  },
  stream: async (rows) => {
    const [tenant, userId] = rows.exporter;
    let seen = 0;
    const query = db.select(shown).from(messages).where(and(eq(messages.tenantId, tenant),
      eq(messages.userId, userId), isNull(messages.deletedAt))).orderBy(asc(messages.createdAt)).toSQL();
    for await (const found of client.unsafe(query.sql, query.params).cursor(1000)) seen += found.length;
    return seen;
  },
};
const expected = (rows) => ({ recent: 50, turn: 20, pages: rows.long, stream: rows.exported, append_many: rows.bulk });
const most = { stream: 1, append_many: 8 };

async function measure(name, rows, callers, seconds) {
  const microseconds = [];
  let left = most[name] ?? 1e9;
  const before = process.cpuUsage();
  const began = performance.now();
  const ends = began + seconds * 1000;
  await Promise.all(Array.from({ length: callers }, async () => {
    for (let before = performance.now(); before < ends && left > 0;) {
      left -= 1;
      await operations[name](rows);
      const after = performance.now();
      microseconds.push(Math.round((after - before) * 1000));
      before = after;
    }
  }));
  const spent = performance.now() - began;
  const { user, system } = process.cpuUsage(before);
  return {
    calls_a_second: microseconds.length * 1000 / spent, microseconds,
    cpu_microseconds: (user + system) / microseconds.length,
  };
}

const kibibytes = (name) =>
  Number(readFileSync("/proc/self/status", "utf8").match(new RegExp(`${name}:\\s+(\\d+)`))[1]);

async function answer({ do: what, operation, tenants = "mixed", callers = 1, seconds = 0.3 }) {
  const rows = sample[tenants];
  if (what === "growth") {
    writeFileSync("/proc/self/clear_refs", "5");
    const before = kibibytes("VmRSS");
    await operations.stream(rows);
    return { mebibytes: (kibibytes("VmHWM") - before) / 1024 };
  }
  if (what === "try") {
    const seen = await operations[operation](rows);
    if (seen < (expected(rows)[operation] ?? 1)) throw new Error(`${operation} returned ${seen} rows`);
    return {};
  }
  return measure(operation, rows, callers, seconds);
}

say({ operations: Object.keys(operations) });
for await (const line of lines) {
  try {
    say(await answer(JSON.parse(line)));
  } catch (error) {
    say({ error: String(error).slice(0, 300) });
  }
}
await client.end();

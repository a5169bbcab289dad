"""Operations of an administrator: roles and privileges, backup, restore."""

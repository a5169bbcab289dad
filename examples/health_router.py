"""Health endpoints for a FastAPI service: /health/live for the restart, /health/ready for the load balancer.

    uvicorn examples.health_router:app

Both answer with `{"status": ..., "service": ..., "checks": {...}}`. Ready is 200 also where something is degraded, and
503 where the process cannot serve. No host, user or text of the server's is in it; who must not see it all the same
should not reach it: leave it off the public port.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Response

from src.database import engine
from src.database.health import liveness, readiness

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> dict[str, Any]:
    """Say that the process lives; the database is not asked: a restart of ours would not bring it back."""
    return (await liveness()).as_json()


@router.get("/ready")
async def ready(response: Response) -> dict[str, Any]:
    """Say whether requests are to be sent here."""
    report = await readiness()
    response.status_code = 200 if report.can_serve else 503
    return report.as_json()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Close what is open when the service ends."""
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.include_router(router)

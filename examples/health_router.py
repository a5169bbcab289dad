"""Health endpoints for a FastAPI service: /health/live for the restart, /health/ready for the load balancer.

    uvicorn examples.health_router:app

Both return `{"status": ..., "service": ..., "checks": {...}}`. /health/ready has status 200 for healthy and degraded,
and 503 if the process cannot serve. The body contains no host, user or text of the server. Do not expose the endpoints
on a public port.
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
    """Return the liveness report, without a query: restarting this process would not repair the database."""
    return (await liveness()).as_json()


@router.get("/ready")
async def ready(response: Response) -> dict[str, Any]:
    """Return the readiness report; status 503 takes the process out of the load balancer."""
    report = await readiness()
    response.status_code = 200 if report.can_serve else 503
    return report.as_json()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Close all connections when the service ends."""
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.include_router(router)

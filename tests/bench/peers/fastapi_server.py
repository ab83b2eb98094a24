"""The usual container with a model: FastAPI and uvicorn in front of onnxruntime.

One model, loaded once for each worker, from the file MODEL_PATH names. As the handbook has it: the
run blocks, so the handler is a plain function that FastAPI runs in its thread pool.
"""

import os

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from lambda_function import UNFIT, infer
from pydantic import BaseModel


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list


class Request(BaseModel):
    id: str | None = None
    inputs: list[Tensor]
    outputs: list[dict] | None = None


app = FastAPI()


@app.get("/v2/health/ready")
def ready():
    return {"ready": True}


@app.post("/v2/models/{name}/infer")
def answer(name: str, request: Request):
    try:
        return JSONResponse(infer(request.model_dump(exclude_none=True)))
    except UNFIT as error:
        raise HTTPException(400, f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        "fastapi_server:app",
        port=int(os.environ["PORT"]),
        workers=int(os.environ.get("WORKERS", "1")),
        log_level="warning",
        access_log=False,
    )

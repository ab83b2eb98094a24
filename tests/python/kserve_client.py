"""kserve's own clients: kserve_client.py MODEL IMAGE.json BASE_URL [GRPC_ADDRESS] prints what they get. A process of its
own, because kserve's and tritonclient's gRPC messages cannot be loaded into one."""
import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(model, image):
    given = InferInput("image", list(image.shape), "FP32")
    given.set_data_from_numpy(image, binary_data=False)
    return InferRequest(model_name=model, infer_inputs=[given], request_id="k-1")


def shown(answer):
    outputs = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    return {"id": answer.id, "model": answer.model_name, "outputs": outputs}


async def rest(model, image, base):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(base) and await client.is_server_ready(base)
    assert await client.is_model_ready(base, model)
    answer = await client.infer(base, request(model, image), model_name=model)
    await client.close()
    return shown(answer)


async def grpc(model, image, address):
    client = InferenceGRPCClient(address)
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready(model)
    answer = await client.infer(request(model, image))
    await client.close()
    return shown(answer)


def main(model, path, base, address=None):
    with open(path, encoding="utf-8") as file:
        image = np.array(json.load(file), dtype=np.float32)
    got = {"rest": asyncio.run(rest(model, image, base))}
    if address:
        got["grpc"] = asyncio.run(grpc(model, image, address))
    print(json.dumps(got))


main(*sys.argv[1:])

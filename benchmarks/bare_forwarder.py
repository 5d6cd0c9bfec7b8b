"""The least that an aiohttp proxy can do: read a request, send it on, send the answer back.

It knows nothing of AWS. What `infra.proxy` costs beside it is what quotas cost.

How to run it: `python benchmarks/bare_forwarder.py URL`; it prints `ready http://127.0.0.1:PORT`.
"""

import asyncio
import sys

from aiohttp import ClientSession, TCPConnector, web


async def main(upstream: str) -> None:
    """Serve until killed."""
    async with ClientSession(connector=TCPConnector(limit=0), auto_decompress=False) as session:

        async def forward(request: web.BaseRequest) -> web.Response:
            body = await request.content.read()
            headers = request.headers.copy()
            headers.popall("Content-Length", None)
            headers.popall("Host", None)
            url = upstream + request.path_qs
            async with session.request(request.method, url, data=body, headers=headers) as answer:
                content = await answer.read()
                passed = answer.headers.copy()
                passed.popall("Content-Length", None)
                return web.Response(status=answer.status, headers=passed, body=content)

        runner = web.ServerRunner(web.Server(forward, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

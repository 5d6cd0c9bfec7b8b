// Loaded into kinesis-mock with `node --require`. The server listens on every interface and wants
// its ports chosen beforehand; this makes it listen on 127.0.0.1 only, on ports that the operating
// system picks, so that two stacks can never race for one.
//
// kinesis-mock is told to listen on the ports 1 and 2, which mean "plain" and "TLS" here. What it
// was given instead is printed: `listening plain 127.0.0.1:40001`.
'use strict'

const net = require('node:net')

const NAMES = { 1: 'plain', 2: 'tls' }
const listen = net.Server.prototype.listen

net.Server.prototype.listen = function (...args) {
  const callback = args.find((arg) => typeof arg === 'function')
  const wanted = typeof args[0] === 'object' && args[0] !== null ? args[0].port : args[0]
  const name = NAMES[wanted]
  if (name === undefined) {
    throw new Error(`loopback.cjs: unexpected listen on ${JSON.stringify(args[0])}`)
  }
  this.once('listening', () => {
    const { address, port } = this.address()
    process.stdout.write(`listening ${name} ${address}:${port}\n`)
  })
  return listen.call(this, { port: 0, host: '127.0.0.1' }, callback)
}

// The embedded stack's MQTT broker where Mosquitto is not installed: aedes, on 127.0.0.1 only, for
// one user name and password, with everything in memory.
//
// Usage: MQTT_USERNAME=… MQTT_PASSWORD=… node broker.mjs
// Prints `ready 127.0.0.1:PORT` when it takes connections; ends on SIGTERM or SIGINT.
import { timingSafeEqual, createHash } from 'node:crypto'
import { createServer } from 'node:net'
import { Aedes } from 'aedes'

const { MQTT_USERNAME, MQTT_PASSWORD } = process.env
if (!MQTT_USERNAME || !MQTT_PASSWORD) {
  process.stderr.write('MQTT_USERNAME and MQTT_PASSWORD have to be set\n')
  process.exit(2)
}

const digest = (text) => createHash('sha256').update(String(text)).digest()
const same = (given, wanted) => timingSafeEqual(digest(given), digest(wanted))

function authenticate (client, username, password, done) {
  if (same(username ?? '', MQTT_USERNAME) && same(password ?? '', MQTT_PASSWORD)) {
    return done(null, true)
  }
  const error = new Error(`refused a client as ${JSON.stringify(username ?? 'anonymous')}`)
  error.returnCode = username === undefined ? 5 : 4
  done(error, false)
}

// aedes reads on from a publisher only when every subscriber has taken the message, so one that does
// not read holds up all the others. Let its messages wait in memory instead, as Mosquitto does.
function decouple (client) {
  const { deliver0, deliverQoS } = client
  client.deliver0 = (packet, done) => { deliver0(packet, noop); setImmediate(done) }
  client.deliverQoS = (packet, done) => { deliverQoS(packet, noop); setImmediate(done) }
}

// aedes delivers new messages to a returning session while it still sends the queued ones, so new
// ones overtake old ones. MQTT 3.1.1 section 4.6 wants the order kept: hold the new ones back until
// the queue has been sent, then deliver those that were not in it.
function keepOrder (client) {
  const deliver = client.deliverQoS
  const sent = new Set()
  let held = []
  client.backlog = (packet) => { if (held) sent.add(packet.brokerCounter) }
  client.deliverQoS = (packet, done) => {
    if (!held) return deliver(packet, done)
    held.push(packet)
    setImmediate(done)
  }
  client.catchUp = () => {
    const packets = held
    held = null
    for (const packet of packets) {
      if (!sent.has(packet.brokerCounter)) deliver(packet, noop)
    }
  }
}

function noop () {}

const broker = await Aedes.createBroker({
  authenticate,
  preConnect (client, packet, done) {
    decouple(client)
    if (!packet.clean) keepOrder(client)
    done(null, true)
  },
  authorizeForward (client, packet) {
    client.backlog?.(packet)
    return packet
  },
  // Deliveries under way at once; beyond a limit they would wait for one another.
  concurrency: 0,
  // Packets a client may send before its CONNACK.
  queueLimit: 100000,
  // A reader that pauses under load keeps its connection.
  drainTimeout: 0
})

broker.on('clientReady', (client) => client.catchUp?.())
for (const event of ['clientError', 'connectionError']) {
  broker.on(event, (client, error) => {
    process.stdout.write(`${event} ${client?.id ?? '-'}: ${error.message}\n`)
  })
}

const server = createServer({ noDelay: true }, broker.handle)
server.listen({ port: 0, host: '127.0.0.1' }, () => {
  const { address, port } = server.address()
  process.stdout.write(`ready ${address}:${port}\n`)
})

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.once(signal, () => {
    server.close()
    broker.close(() => process.exit(0))
  })
}

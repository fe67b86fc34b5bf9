// The flows of Helia's remote pinning and of the JavaScript client below it, against a running server.
// ENDPOINT and TOKEN say where; the last line printed is "all good".
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { createRemotePins } from '@helia/remote-pinning'
import { Configuration, RemotePinningServiceClient, Status } from '@ipfs-shipyard/pinning-service-client'
import { multiaddr } from '@multiformats/multiaddr'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { identity } from 'multiformats/hashes/identity'
import { sha256 } from 'multiformats/hashes/sha2'

const { ENDPOINT: endpointUrl, TOKEN: accessToken } = process.env
const bytes = text => new TextEncoder().encode(text)
const held = text => CID.createV1(raw.code, identity.digest(bytes(text)))
const unfindable = async () => CID.createV1(raw.code, await sha256.digest(randomBytes(64)))
const collect = async source => {
  const all = []
  for await (const item of source) all.push(item)
  return all
}
const step = name => console.log('-', name)

// Helia's part that remote pinning uses: its addresses become origins, and it is asked to dial the delegates.
const dialled = []
const origins = ['/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWMcYRHYHyabzBGVhaLV7HyFS9Wk7XfXTiK3zrwdxRkpHa']
const helia = {
  libp2p: {
    getMultiaddrs: () => origins.map(o => multiaddr(o)),
    dial: async addresses => { dialled.push(...addresses) }
  }
}
const pins = createRemotePins(helia, { endpointUrl, accessToken, pollInterval: 50 })
const client = new RemotePinningServiceClient(new Configuration({ endpointUrl, accessToken }))
const every = [Status.Queued, Status.Pinning, Status.Pinned, Status.Failed]

step('helia: add ends pinned, is dialled, is listed with its metadata')
const first = held('helia')
assert.deepEqual(await collect(pins.add(first, { name: 'first', metadata: { from: 'helia' }, signal: AbortSignal.timeout(30_000) })), [first])
assert.ok(dialled.length > 0 && dialled.every(a => a.getPeerId() != null), 'delegates name their peer')
assert.equal(await pins.isPinned(first), true)
const got = await pins.get(first)
assert.deepEqual([got.cid.toString(), got.status, got.metadata], [first.toString(), 'pinned', { from: 'helia' }])

step('helia: what waits is not pinned')
const waiting = await unfindable()
await client.pinsPost({ pin: { cid: waiting.toString(), name: 'waiting' } })
assert.equal(await pins.isPinned(waiting), false)
await assert.rejects(pins.get(waiting), { name: 'NotFoundError' })

step('helia: setMetadata replaces in place')
const before = (await client.pinsGet({ cid: [first.toString()] })).results[0]
await pins.setMetadata(first, { from: 'helia', round: '2' })
const after = (await client.pinsGet({ cid: [first.toString()] })).results
assert.equal(after.length, 1)
assert.notEqual(after[0].requestid, before.requestid)
assert.deepEqual([after[0].status, after[0].pin.name, after[0].pin.meta], ['pinned', 'first', { from: 'helia', round: '2' }])
assert.deepEqual(after[0].pin.origins, origins)

step('client: add, filter, replace')
const added = await client.pinsPost({ pin: { cid: held('one').toString(), name: 'Tagged', meta: { tag: 'x', other: 'y' } } })
assert.equal(added.status, 'pinned')
assert.equal((await client.pinsRequestidGet({ requestid: added.requestid })).pin.name, 'Tagged')
const by = async filter => (await client.pinsGet(filter)).results.map(r => r.requestid)
assert.deepEqual(await by({ meta: { tag: 'x' } }), [added.requestid])
assert.deepEqual(await by({ meta: { tag: 'y' } }), [])
assert.deepEqual(await by({ name: 'tagged' }), [])
assert.deepEqual(await by({ name: 'tagged', match: 'iexact' }), [added.requestid])
assert.deepEqual(await by({ name: 'agge', match: 'partial' }), [added.requestid])
const second = await unfindable()
const replaced = await client.pinsRequestidPost({ requestid: added.requestid, pin: { cid: second.toString() } })
assert.notEqual(replaced.requestid, added.requestid)
assert.equal(replaced.pin.cid, second.toString())
await assert.rejects(client.pinsRequestidGet({ requestid: added.requestid }), error => error.response?.status === 404 || error.status === 404)
assert.equal((await client.pinsGet({ status: every, cid: [second.toString()] })).count, 1)

step('client: remove')
await client.pinsRequestidDelete({ requestid: replaced.requestid })
await assert.rejects(client.pinsRequestidGet({ requestid: replaced.requestid }), error => error.response?.status === 404 || error.status === 404)

step('both: paging shows every pin once')
const names = new Set(['first'])
for (let i = 0; i < 25; i++) {
  names.add(`page-${i}`)
  await client.pinsPost({ pin: { cid: held(`page ${i}`).toString(), name: `page-${i}` } })
}
const walked = []
for (let query = { limit: 10 }; ;) {
  const { count, results } = await client.pinsGet(query)
  walked.push(...results.map(r => r.pin.name))
  if (count === results.length) break
  query = { limit: 10, before: results.at(-1).created }
}
assert.equal(walked.length, names.size)
assert.deepEqual(new Set(walked), names)
// Helia pages forward from the newest row, so it shows rows again; it must end, and show all.
assert.deepEqual(new Set((await collect(pins.ls({ signal: AbortSignal.timeout(30_000) }))).map(p => p.name)), names)

step('helia: rm')
await collect(pins.rm(first))
assert.equal(await pins.isPinned(first), false)

step('client: a wrong token is refused')
const stranger = new RemotePinningServiceClient(new Configuration({ endpointUrl, accessToken: 'nonsense' }))
await assert.rejects(stranger.pinsGet({}), error => error.response?.status === 401 || error.status === 401)

console.log('all good')

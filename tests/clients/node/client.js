// What a client written with Node's etcd3 does. The last line is "N passed, N failed".
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
const { Etcd3 } = require('etcd3');

const { ENDPOINT, TLS_ENDPOINT, PKI } = process.env;
const PREFIX = '/clients/node/';
const open = [];

function connect(options = { hosts: `http://${ENDPOINT}` }) {
  const client = new Etcd3(options);
  open.push(client);
  return client;
}

async function until(what, holds, seconds = 15) {
  const end = Date.now() + seconds * 1000;
  while (!(await holds())) {
    assert(Date.now() < end, what);
    await sleep(100);
  }
}

async function putGetDelete() {
  const client = connect();
  await client.put(PREFIX + 'a').value('1');
  await client.put(PREFIX + 'b').value('2');
  assert.strictEqual(await client.get(PREFIX + 'a').string(), '1');
  assert.deepStrictEqual(await client.getAll().prefix(PREFIX).sort('Key', 'Descend').keys(), [PREFIX + 'b', PREFIX + 'a']);
  assert.strictEqual((await client.delete().key(PREFIX + 'a')).deleted, '1');
  assert.strictEqual(await client.get(PREFIX + 'a').string(), null);
}

async function txn() {
  const client = connect();
  const key = PREFIX + 'txn';
  const swap = (old, next) =>
    client.if(key, 'Value', '==', old).then(client.put(key).value(next)).else(client.get(key)).commit();
  await client.put(key).value('1');
  assert.strictEqual((await swap('1', '2')).succeeded, true);
  const refused = await swap('1', '3');
  assert.strictEqual(refused.succeeded, false);
  assert.strictEqual(refused.responses[0].response_range.kvs[0].value.toString(), '2');
  await client.stm().transact(async (tx) => tx.put(key).value((await tx.get(key).string()) + '!'));
  assert.strictEqual(await client.get(key).string(), '2!');
}

async function watch() {
  const client = connect();
  const heard = [];
  const watcher = await client.watch().prefix(PREFIX + 'watch/').withPreviousKV().create();
  watcher.on('put', (kv, previous) => heard.push(['put', kv.value.toString(), previous && previous.value.toString()]));
  watcher.on('delete', (kv) => heard.push(['delete', kv.key.toString()]));
  await client.put(PREFIX + 'watch/a').value('1');
  const second = await client.put(PREFIX + 'watch/a').value('2');
  await client.delete().key(PREFIX + 'watch/a');
  await until('three events', () => heard.length >= 3);
  assert.deepStrictEqual(heard, [['put', '1', heard[0][2]], ['put', '2', '1'], ['delete', PREFIX + 'watch/a']]);
  await watcher.cancel();
  // from a revision on
  const again = [];
  const later = await client.watch().key(PREFIX + 'watch/a').startRevision(second.header.revision).create();
  later.on('data', (answer) => again.push(...answer.events.map((event) => event.type)));
  await until('two events', () => again.length >= 2);
  assert.deepStrictEqual(again, ['Put', 'Delete']);
  await later.cancel();
}

async function lease() {
  const client = connect();
  const kept = client.lease(4);
  await kept.put(PREFIX + 'leased').value('1');
  await sleep(6000);
  assert.strictEqual(await client.get(PREFIX + 'leased').string(), '1', 'it is kept alive');
  await kept.keepaliveOnce();
  kept.release(); // no longer kept alive
  await until('the lease runs out', async () => (await client.get(PREFIX + 'leased').string()) === null);
  const other = client.lease(600);
  await other.put(PREFIX + 'leased').value('2');
  await other.revoke();
  assert.strictEqual(await client.get(PREFIX + 'leased').string(), null, 'it went with its lease');
}

async function lock() {
  const [one, other] = [connect(), connect()];
  const first = await one.lock(PREFIX + 'lock').ttl(10).acquire();
  await assert.rejects(other.lock(PREFIX + 'lock').ttl(10).acquire(), /lock/i, 'it is taken');
  await first.release();
  const second = await other.lock(PREFIX + 'lock').ttl(10).acquire();
  await second.release();
}

async function election() {
  const [one, other] = [connect(), connect()];
  const first = one.election(PREFIX + 'election', 10).campaign('one');
  await new Promise((resolve, reject) => first.on('elected', resolve).on('error', reject));
  const second = other.election(PREFIX + 'election', 10).campaign('other');
  let elected = false;
  second.on('elected', () => (elected = true));
  assert.strictEqual(await one.election(PREFIX + 'election', 10).leader(), 'one');
  const observer = await other.election(PREFIX + 'election', 10).observe();
  assert.strictEqual(observer.leader(), 'one');
  await sleep(500);
  assert(!elected, 'there is one leader');
  await first.resign();
  await until('the next one', () => elected);
  await until('the observer hears of it', () => observer.leader() === 'other');
  await observer.cancel();
  await second.resign();
}

async function members() {
  const client = connect();
  assert.strictEqual((await client.cluster.memberList({})).members.length, 1);
  assert.match((await client.maintenance.status()).version, /^3\./);
}

async function tls() {
  const file = (name) => fs.readFileSync(`${PKI}/${name}`);
  const hosts = `https://${TLS_ENDPOINT}`;
  const client = connect({
    hosts,
    credentials: { rootCertificate: file('ca.crt'), privateKey: file('client.key'), certChain: file('client.crt') },
  });
  await client.put(PREFIX + 'tls').value('1');
  assert.strictEqual(await client.get(PREFIX + 'tls').string(), '1');
  const bare = connect({ hosts, credentials: { rootCertificate: file('ca.crt') }, defaultCallOptions: () => ({ deadline: Date.now() + 5000 }) });
  await assert.rejects(bare.get(PREFIX + 'tls').string(), 'served without a certificate');
}

async function main() {
  let [passed, failed] = [0, 0];
  for (const check of [putGetDelete, txn, watch, lease, lock, election, members, tls]) {
    try {
      await check();
      passed++;
      console.log(`ok ${check.name}`);
    } catch (error) {
      failed++;
      console.log(`FAILED ${check.name}: ${error.stack}`);
    }
  }
  open.forEach((client) => client.close());
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

main();

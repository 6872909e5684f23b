// Another process on a store's folder. `write`: puts one prefix after the other until it is killed, and says when each is in. `full`: puts until the
// disk refuses, and says with what, and what memory still has. `read`: says what it finds, and whether it can put. Arguments: the package, what to
// do, the folder.
const [built, what, folder] = process.argv.slice(2);
const { bundledModel, KvStore, loadModel } = await import(built);
const model = await loadModel(bundledModel("wren"));
const pool = await model.createPool({ contextLength: 1024, maxSequences: 2 });
const store = await KvStore.open({ path: folder, ...(what === "read" ? { ramBytes: 0 } : {}) });
const prefix = (number) => Int32Array.from({ length: 512 }, (_, i) => 5 + ((number + i * 7) % 90));
const say = (message) => process.send(message);

async function put(number) {
  const sequence = pool.sequence();
  try {
    await sequence.prefill(prefix(number));
    return await store.put(sequence);
  } finally {
    await sequence.dispose();
  }
}

async function positions(number) {
  const lease = await store.find(pool, prefix(number));
  lease?.dispose();
  return lease?.positions ?? 0;
}

if (what === "write") {
  for (let number = 0; number < 90; number++) {
    await put(number);
    say({ put: number });
  }
} else if (what === "full") {
  let number = 0;
  let failed;
  for (; number < 90 && failed === undefined; number++) {
    failed = await put(number).then(
      () => undefined,
      ({ code, details }) => ({ code, reason: details.reason }),
    );
  }
  say({ failed, puts: number - 1, inMemory: await positions(number - 1), disk: store.stats().disk.chunks });
} else {
  const failed = await put(89).catch(({ code }) => ({ code }));
  say({ failed, found: await positions(0), quarantined: store.stats().quarantined });
}
await store.close();
await pool.dispose();
await model.dispose();
process.disconnect();

// A hub in a process of its own, to be killed. Arguments: the module of the hub, and where it listens. Says where it does.
const [built, url] = process.argv.slice(2);
const { listen } = await import(built);
const hub = await listen(url);
process.send(hub.url);
process.on("disconnect", () => process.exit());

// The official client, unchanged: subscribes, tells every event, comes back after each ending as its readme shows, and
// ends when it has been told to. Says what happens as one line of JSON each.
import { restClient, websocketClient } from "@massive.com/client-js";

const [, , wsUrl, restUrl, topics, wantedEndings] = process.argv;
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
let endings = 0;

function open() {
  const socket = websocketClient("key", wsUrl).stocks();
  socket.onerror = (error) => say({ error: String(error?.message ?? error) });
  socket.onclose = (event) => {
    say({ closed: event.code });
    endings += 1;
    if (endings < Number(wantedEndings)) open();
    else finish();
  };
  socket.onmessage = ({ data }) => {
    for (const event of JSON.parse(data)) {
      say(event);
      if (event.ev === "status" && event.status === "auth_success") {
        socket.send(JSON.stringify({ action: "subscribe", params: topics }));
      }
    }
  };
}

async function finish() {
  const rest = restClient("key", restUrl, { pagination: true });
  const trades = await rest.getStocksTrades({ stockTicker: "AAPL", timestampGte: process.argv[6], order: "asc", limit: 100 });
  say({ rest: trades.results.map((row) => row.id) });
  process.exit(0);
}

open();

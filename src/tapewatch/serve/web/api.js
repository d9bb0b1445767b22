// Questions to the server. A 401 asks for the token once, whoever met it first.

import { byId, setText } from "./dom.js";

let signingIn = null;
const foreseen = new Map(); // path -> answer under way

/** GET as JSON. Throws an Error with the server's sentence; waits for the token if the server wants one. */
export async function get(path) {
  const asked = foreseen.get(path) ?? fetch(path); // No answer is kept by the browser: the server says "no-store".
  foreseen.delete(path);
  const answer = await asked;
  if (answer.status === 401) {
    await signIn();
    return get(path);
  }
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail ?? `The server answered ${answer.status}.`);
  return body;
}

/** Change something. Throws as `get`; the answer's JSON, or null where there is none. */
export async function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (answer.status === 401) {
    await signIn();
    return send(method, path, body);
  }
  if (answer.status === 204) return null;
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.detail ?? `The server answered ${answer.status}.`);
  return said;
}

/** Ask what will be wanted soon; the next `get` of it takes this answer. */
export function foresee(path) {
  const answer = fetch(path);
  answer.catch(() => {}); // Who takes it is told.
  foreseen.set(path, answer);
}

/** What was foreseen and not taken has grown old. */
export const forgetForeseen = () => foreseen.clear();

function signIn() {
  signingIn ??= new Promise((done) => {
    const dialog = byId("login");
    const form = byId("login-form");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const token = byId("token").value.trim();
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch("/api/v1/session", { method: "POST", headers, body: JSON.stringify({ token }) });
      if (!answer.ok) {
        setText(byId("login-error"), (await answer.json()).detail);
        return;
      }
      form.reset();
      dialog.close();
      signingIn = null;
      done();
    });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
  });
  return signingIn;
}

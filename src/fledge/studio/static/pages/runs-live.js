// Follow runs: the stream of /api/runs/follow, opened anew where the browser gives up.
// A tab that is hidden closes its stream: a browser has six connections to a server, for all tabs together.
import { connected } from "../shared.js";

const RETRY_MS = 2000;
const HIDDEN_MS = 2000; // a glance at another tab changes nothing
const EVENTS = ["rows", "events", "reset", "state", "gone"];

/** runs: RunData objects with a cursor. handle(event, data) is called for every message. Returns a function that ends it. */
export function followRuns(runs, handle) {
  let source = null, timer = 0, ended = false, last = runs.map((run) => run.cursor).join(";");

  function connect() {
    if (document.hidden) return;
    const query = new URLSearchParams();
    const places = last.split(";");
    runs.forEach((run, number) => {
      query.append("run", run.name);
      query.append("after", places[number] ?? "");
    });
    source = new EventSource(`/api/runs/follow?${query}`);
    const heard = (event) => {
      if (event.lastEventId) last = event.lastEventId;
      connected(true);
    };
    source.addEventListener("hello", heard);
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        heard(event);
        handle(name, JSON.parse(event.data));
      });
    }
    source.onerror = () => {
      if (ended) return;
      connected(false);
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      clearTimeout(timer);
      timer = setTimeout(connect, RETRY_MS);
    };
  }

  function visibility() {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => source?.close(), HIDDEN_MS);
    else if (source?.readyState !== EventSource.OPEN) {
      source?.close();
      connect();
    }
  }

  document.addEventListener("visibilitychange", visibility);
  connect();
  return () => {
    ended = true;
    document.removeEventListener("visibilitychange", visibility);
    clearTimeout(timer);
    source?.close();
  };
}

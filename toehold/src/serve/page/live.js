"use strict";
(() => {
  const state = document.getElementById("live");
  const say = (text) => { if (state) state.textContent = text; };
  let busy = false, again = false;
  const renew = async () => {
    if (busy) { again = true; return; }
    busy = true;
    do {
      again = false;
      try {
        const answer = await fetch(location.href, { cache: "no-store", credentials: "omit" });
        const next = new DOMParser().parseFromString(await answer.text(), "text/html");
        const [now, then] = [document.getElementById("state"), next.getElementById("state")];
        if (answer.ok && now && then) { now.replaceWith(document.adoptNode(then)); say("live"); }
      } catch (_) { say("not connected"); }
    } while (again);
    busy = false;
  };
  const events = new EventSource("/events");
  let known = null;
  events.addEventListener("state", (event) => {
    if (known !== null && known !== event.data) renew();
    if (known === null && document.body.dataset.version !== event.data) renew();
    known = event.data;
    say("live");
  });
  events.addEventListener("error", () => say("not connected"));
})();

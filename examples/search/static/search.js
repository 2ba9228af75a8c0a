// Search as you type, and plans in the page. Without this script the page works as a form with links.
"use strict";

const PAUSE = 120; // milliseconds without a key before a search
const NEXT_LOOK = 2000; // milliseconds between two looks at the progress, or until a failed search is tried again

const form = document.getElementById("search");
const results = document.getElementById("results");
const said = document.getElementById("said"); // what a screen reader says: how many were found, not all of them
const progress = document.getElementById("progress");

// The newest search; one that is older is aborted, so that answers cannot overtake each other.
let running = new AbortController();
let timer;

function address() {
  const fields = new URLSearchParams(new FormData(form));
  if (!fields.get("part")) fields.delete("part");
  return fields;
}

async function search() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const fields = address();
  if (!fields.get("q").trim()) {
    results.replaceChildren();
    return;
  }
  results.setAttribute("aria-busy", "true");
  let again = false;
  try {
    const answer = await fetch("/results?" + fields, { signal });
    const html = await answer.text();
    if (signal.aborted) return;
    results.innerHTML = html; // the server has escaped it
    again = answer.status === 503;
    document.title = fields.get("q") + " - PostgreSQL manual";
  } catch (error) {
    if (error.name === "AbortError") return;
    const message = document.createElement("p");
    message.className = "error";
    message.textContent = "The server of this page does not answer.";
    results.replaceChildren(message);
    again = true;
  }
  results.setAttribute("aria-busy", "false");
  said.textContent = results.querySelector(".count, .error")?.textContent ?? "";
  if (again) timer = setTimeout(search, NEXT_LOOK);
}

// One entry of the history for a search, not one for each key.
function remember(isNew) {
  const url = "/?" + address();
  if (isNew) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    remember(false);
    search();
  }, PAUSE);
}

function now(event) {
  event?.preventDefault();
  clearTimeout(timer);
  remember(true);
  search();
}

// The address was changed by going back or forth.
function show() {
  const fields = new URLSearchParams(location.search);
  form.q.value = fields.get("q") ?? "";
  form.mode.value = fields.get("mode") || "both";
  form.part.value = fields.get("part") ?? "";
  search();
}

// A plan is fetched when it is asked for: it runs the statement once more.
async function plan(event) {
  const link = event.target.closest("a[data-plan]");
  if (!link) return;
  event.preventDefault();
  const place = link.closest("details").querySelector("div.plan");
  try {
    const answer = await fetch(link.dataset.plan);
    place.innerHTML = await answer.text(); // the server has escaped it
  } catch {
    place.textContent = "The server of this page does not answer.";
  }
}

async function look() {
  try {
    const answer = await fetch("/progress");
    if (answer.ok) progress.innerHTML = await answer.text();
  } catch {
    // It is tried again.
  }
  if (progress.querySelector("[data-working]")) setTimeout(look, NEXT_LOOK);
}

document.addEventListener("click", plan);
if (form) {
  form.addEventListener("submit", now);
  form.q.addEventListener("input", soon);
  form.addEventListener("change", (event) => {
    if (event.target !== form.q) now();
  });
  window.addEventListener("popstate", show);
  if (progress.querySelector("[data-working]")) setTimeout(look, NEXT_LOOK);
}

// A link to one of the map's lists opens it.
function open() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
window.addEventListener("hashchange", open);
open();

// Shows what changes as it changes. Without it the page is loaded anew from time to time.
"use strict";
(function () {
  var live = document.querySelector("[data-live]");
  if (!live || !window.fetch || !window.DOMParser) return;
  var loading = false, again = false, last = 0, timer = 0;
  function load() {
    if (loading) { again = true; return; }
    loading = true;
    last = Date.now();
    fetch(location.href, { credentials: "same-origin" }).then(function (answer) {
      return answer.ok ? answer.text() : null;
    }).then(function (text) {
      if (text) show(new DOMParser().parseFromString(text, "text/html"));
    }).catch(function () {}).then(function () {
      loading = false;
      if (again) { again = false; setTimeout(load, 500); }
    });
  }
  function show(page) {
    var next = page.querySelector("[data-live]");
    var here = document.querySelector("[data-live]");
    // What somebody has ticked stays as it is.
    if (!next || !here || here.querySelector("input:checked")) return;
    here.replaceWith(document.adoptNode(next));
    // A page of which nothing changes any more has no script.
    if (!page.querySelector("head script")) clearInterval(timer);
  }
  function poll() {
    if (!timer) timer = setInterval(load, 10000);
  }
  function soon() {
    if (Date.now() - last > 1000) {
      load();
    } else if (!loading) {
      loading = true;
      setTimeout(function () { loading = false; load(); }, 1000);
    }
  }
  if (!live.dataset.events || !window.EventSource) { poll(); return; }
  var events = new EventSource(live.dataset.events);
  ["layer", "epoch", "progress"].forEach(function (name) { events.addEventListener(name, soon); });
  events.addEventListener("state", function (event) {
    soon();
    var state = JSON.parse(event.data).state;
    if (["succeeded", "failed", "cancelled"].indexOf(state) >= 0) { events.close(); load(); }
  });
  // The gateway has refused, and the browser does not try again by itself.
  events.onerror = function () { if (events.readyState === 2) poll(); };
})();

// Shows what changes in a run as it changes. Without it the page is loaded anew from time to time.
"use strict";
(function () {
  var live = document.querySelector("[data-events]");
  if (!live || !window.EventSource || !window.fetch || !window.DOMParser) return;
  var loading = false, again = false, last = 0;
  function load() {
    if (loading) { again = true; return; }
    loading = true;
    last = Date.now();
    fetch(location.href, { credentials: "same-origin" }).then(function (answer) {
      return answer.ok ? answer.text() : null;
    }).then(function (text) {
      if (text) {
        var next = new DOMParser().parseFromString(text, "text/html").querySelector("[data-live]");
        var here = document.querySelector("[data-live]");
        if (next && here) here.replaceWith(document.adoptNode(next));
      }
    }).catch(function () {}).then(function () {
      loading = false;
      if (again) { again = false; setTimeout(load, 500); }
    });
  }
  function soon() {
    if (Date.now() - last > 1000) {
      load();
    } else if (!loading) {
      loading = true;
      setTimeout(function () { loading = false; load(); }, 1000);
    }
  }
  var events = new EventSource(live.dataset.events);
  ["layer", "epoch", "progress"].forEach(function (name) { events.addEventListener(name, soon); });
  events.addEventListener("state", function (event) {
    soon();
    var state = JSON.parse(event.data).state;
    if (["succeeded", "failed", "cancelled"].indexOf(state) >= 0) { events.close(); load(); }
  });
})();

"use strict";
/* Shows the value input that belongs to the typed key, and the group only where it counts. */
(() => {
  const key = document.getElementById("id_key");
  const scope = document.getElementById("id_scope");
  const rows = [...document.querySelectorAll("[data-hf-key]")];
  const known = new Set(rows.map((row) => row.dataset.hfKey));
  const show = () => {
    const typed = key.value.trim();
    const wanted = known.has(typed) ? typed : "";
    rows.forEach((row) => { row.hidden = row.dataset.hfKey !== wanted; });
    const free = document.querySelector("[data-hf-free]");
    free.hidden = typed === "" || wanted !== "";
    document.querySelector("[data-hf-none]").hidden = typed !== "";
  };
  const showScope = () => {
    const isGroup = scope.value === "group";
    document.querySelector("[data-hf-group]").hidden = !isGroup;
    document.querySelector("[data-hf-locked]").hidden = isGroup;
  };
  key.addEventListener("input", show);
  scope.addEventListener("change", showScope);
  show();
  showScope();
})();

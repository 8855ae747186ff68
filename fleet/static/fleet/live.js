"use strict";
/* Parts of a page that follow what happens: progress, a preview of a form, inputs that belong to a
   choice. Each works without script, too: by loading the page again, by a button, by being shown. */
(() => {
  /* <div data-hf-live="url" data-hf-every="2">: asked again until the answer says it is done. */
  const follow = (part) => {
    const every = Number(part.dataset.hfEvery || 2) * 1000;
    let wait = every;
    const ask = async () => {
      if (document.hidden) { setTimeout(ask, every); return; }
      try {
        const answer = await fetch(part.dataset.hfLive, { credentials: "same-origin", redirect: "error" });
        if (!answer.ok) throw new Error(String(answer.status));
        const text = await answer.text();
        if (answer.headers.get("X-Fleet-Done") === "yes") { location.reload(); return; }
        part.innerHTML = text;
        wait = every;
      } catch {
        /* The console restarts, or the session has ended: ask less often, never give up. */
        wait = Math.min(wait * 2, 30000);
      }
      setTimeout(ask, wait);
    };
    setTimeout(ask, every);
  };

  /* <form data-hf-preview="url" data-hf-into="id">: the form's values are sent when they change. */
  const preview = (form) => {
    const into = document.getElementById(form.dataset.hfInto);
    let timer = 0;
    let last = 0;
    const ask = async () => {
      const mine = ++last;
      into.setAttribute("aria-busy", "true");
      try {
        const answer = await fetch(form.dataset.hfPreview, {
          method: "POST", body: new FormData(form), credentials: "same-origin", redirect: "error",
        });
        const text = answer.ok ? await answer.text() : null;
        if (mine === last && text !== null) into.innerHTML = text;
      } catch {
        /* The button beside it asks in the usual way. */
      }
      if (mine === last) into.removeAttribute("aria-busy");
    };
    const soon = () => { clearTimeout(timer); timer = setTimeout(ask, 400); };
    form.addEventListener("input", soon);
    form.addEventListener("change", soon);
    ask();
  };

  /* <div data-hf-when="name=one|other">: shown while the form's input of this name has such a value. */
  const depend = (form) => {
    const parts = [...form.querySelectorAll("[data-hf-when]")];
    const show = () => parts.forEach((part) => {
      const [name, values] = part.dataset.hfWhen.split("=");
      part.hidden = !values.split("|").includes(form.elements[name].value);
    });
    form.addEventListener("change", show);
    show();
  };

  document.querySelectorAll("[data-hf-live]").forEach(follow);
  document.querySelectorAll("form[data-hf-preview]").forEach(preview);
  document.querySelectorAll("form").forEach((form) => {
    if (form.querySelector("[data-hf-when]")) depend(form);
  });
})();

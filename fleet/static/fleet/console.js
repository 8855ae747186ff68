"use strict";
/* Small helpers of the console's own pages: submit on change, copy to the clipboard. */
document.querySelectorAll("form[data-hf-autosubmit]").forEach((form) => {
  form.addEventListener("change", () => form.requestSubmit());
});
document.querySelectorAll("button[data-hf-copy]").forEach((button) => {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.hfCopy);
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      button.textContent = button.dataset.hfDone;
    } catch {
      /* No clipboard outside https: select the text, so that the usual keys copy it. */
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = button.dataset.hfManual;
    }
    setTimeout(() => { button.textContent = label; }, 3000);
  });
});

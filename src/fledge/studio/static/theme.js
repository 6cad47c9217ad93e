// Dark or light before the first paint: what was chosen with the button, else what the system prefers.
{
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const detail = localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = detail;
    document.dispatchEvent(new CustomEvent("theme", { detail })); // canvases draw themselves anew
  };
  dark.addEventListener("change", apply);
  document.addEventListener("choose-theme", ({ detail }) => { localStorage.setItem("theme", detail); apply(); });
  apply();
}

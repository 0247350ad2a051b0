// The search draws its results in a shadow root, which site.css does not reach: its breadcrumbs lack contrast.
for (const { shadowRoot } of document.body.children) {
  const style = document.createElement("style");
  style.textContent = '[role="option"] menu { color: rgb(var(--color-foreground) / 0.7); }';
  shadowRoot?.append(style);
}

// A token as people can see it: spaces, tabs and newlines as faint signs, parts of characters as bytes.
import { html } from "../../shared.js";

const SIGNS = { " ": "·", "\t": "⇥", "\n": "⏎", "\r": "␍", "\u00a0": "⍽" };
const INVISIBLE = /([ \t\n\r\u00a0])|([\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff])/;

const codePoint = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** "20f09f" → "20 f0 9f" */
export const spaced = (hex) => hex.replace(/../g, "$& ").trim();

/** A token in a box of its own, within a sentence or a table. */
export const piece = (token) => html`<code class="piece"><bdi>${tokenText(token)}</bdi></code>`;

/** token: { text, bytes } → what stands for it. breaks: a newline also ends the line. */
export function tokenText({ text, bytes }, breaks = false) {
  if (text.includes("\ufffd") && bytes) return html`<bdi class="part">${spaced(bytes).toUpperCase()}</bdi>`;
  if (!text) return html`<bdi class="part">∅</bdi>`;
  if (!INVISIBLE.test(text)) return text;
  if (/^[^\u200b-\u200f\ufe00-\ufe0f]+[\u200d\ufe0f]/u.test(text) && text.trim() === text) return text; // an emoji of several
  return text.split(INVISIBLE).filter(Boolean).map((part) =>
    SIGNS[part] ? html`<i class="sign">${SIGNS[part]}</i>${breaks && part === "\n" ? "\n" : ""}`
      : INVISIBLE.test(part) ? html`<bdi class="part">${codePoint(part)}</bdi>` : part);
}

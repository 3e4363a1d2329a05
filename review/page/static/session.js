/** The theme of the page: dark for a dark room, light, or as the computer is set. `theme_early.js` sets it at first; and the end of a session. */

import { postJson } from "./http.js";

const STORED = "wbcpipe review theme";
const NEXT = { auto: "dark", dark: "light", light: "auto" };
const NAMES = { auto: "Theme: as the computer", dark: "Theme: dark room", light: "Theme: light" };

/** Let the button that ends a session, if the page has it, do so. */
export function connectLogOut() {
  document.querySelector(".log-out")?.addEventListener("click", async () => {
    await postJson("/logout", {}).catch(() => undefined);
    location.assign("/login");
  });
}

/** Let a button change the theme. @param {HTMLElement} button */
export function connectTheme(button) {
  const label = () => {
    button.textContent = NAMES[document.documentElement.dataset.theme];
  };
  label();
  button.addEventListener("click", () => {
    const theme = NEXT[document.documentElement.dataset.theme];
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem(STORED, theme);
    } catch {
      // Without storage the choice ends with the page.
    }
    label();
  });
}

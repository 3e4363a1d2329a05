/* Sets the chosen theme before the first paint, so that a light page never flashes in a dark room. A classic script:
   modules wait for the document. */
try {
  const theme = localStorage.getItem("wbcpipe review theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage the theme is the computer's.
}

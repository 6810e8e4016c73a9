// Looking again from time to time, only while somebody can see the page.

/** Call `look` every so many milliseconds until the returned function is called; a failed look is tried again. */
export function every(milliseconds, look) {
  let stopped = false;
  let timer = null;
  const again = async () => {
    if (stopped) return;
    if (document.visibilityState === "visible") await look().catch(() => {});
    if (!stopped) timer = setTimeout(again, milliseconds);
  };
  timer = setTimeout(again, milliseconds);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

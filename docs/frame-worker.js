// A browser starts no worker from a file on disk. This one runs the script in a hidden frame instead, so
// that the search works in a site that was opened from disk; elsewhere nothing changes.
(() => {
  if (location.protocol !== "file:") return;
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html><title>search</title><body>";
      this.frame.addEventListener("load", () => this.start(new URL(url, location.href).href), { once: true });
      document.body.append(this.frame);
    }
    start(url) {
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      };
      inside.importScripts = (...urls) => Promise.all(urls.map((each) => this.load(each)));
      this.load(url).then(() => {
        this.ready = true;
        for (const data of this.waiting.splice(0)) this.postMessage(data);
      });
    }
    load(url) {
      const page = this.frame.contentDocument, script = page.createElement("script");
      script.src = url;
      page.body.append(script);
      return new Promise((resolve) => script.addEventListener("load", resolve, { once: true }));
    }
    postMessage(data) {
      const inside = this.frame.contentWindow;
      if (!this.ready) { this.waiting.push(data); return; }
      const event = new inside.MessageEvent("message", { data });
      inside.dispatchEvent(event);
    }
    terminate() { this.frame.remove(); }
  }
  window.Worker = FrameWorker;
})();

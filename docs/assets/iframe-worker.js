/* A Worker for pages that are opened from a folder, where browsers start none.
 * The script runs in a hidden frame of the page instead. Pages from a server keep the real Worker. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inner = this.frame.contentWindow
      window.addEventListener("message", (event) => {
        if (event.source !== inner) return
        event.stopImmediatePropagation()
        const message = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(message)
        if (this.onmessage) this.onmessage(message)
      })
      // In the frame: a worker's postMessage and importScripts, then the worker's own script.
      const setup = () => {
        window.postMessage = (data) => parent.postMessage(data, "*")
        window.importScripts = (...urls) => {
          let chain = Promise.resolve()
          for (const address of urls) {
            chain = chain.then(() => new Promise((done, fail) => {
              const script = document.createElement("script")
              script.src = address
              script.onload = done
              script.onerror = fail
              document.body.appendChild(script)
            }))
          }
          return chain
        }
      }
      this.ready = new Promise((done) => {
        inner.document.open()
        const start = `<script>(${setup})()</` + `script><script src="${url}"></` + `script>`
        inner.document.write(`<html><body>${start}</body></html>`)
        inner.document.close()
        inner.onload = done
      })
    }
    postMessage(data) {
      const inner = this.frame.contentWindow
      this.ready.then(() => inner.dispatchEvent(new inner.MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}

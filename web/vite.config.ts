import react from '@vitejs/plugin-react'
import fs from 'node:fs'
import zlib from 'node:zlib'
import { defineConfig, type Plugin } from 'vite'

const dist = '../internal/web/dist'

/** Puts the assets there as they are sent: by brotli and by gzip, and not as they are. */
const packed: Plugin = {
  name: 'packed', apply: 'build',
  closeBundle() {
    for (const name of fs.readdirSync(`${dist}/assets`)) {
      const file = `${dist}/assets/${name}`
      const bytes = fs.readFileSync(file)
      fs.writeFileSync(`${file}.br`, zlib.brotliCompressSync(bytes, { params: { [zlib.constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } }))
      fs.writeFileSync(`${file}.gz`, zlib.gzipSync(bytes, { level: 9 }))
      fs.rmSync(file)
    }
  },
}

// The server embeds dist (internal/web). In development, `npx vite` asks a server on PENSTOCK_URL.
export default defineConfig({
  plugins: [react(), packed],
  build: {
    outDir: dist, emptyOutDir: true, modulePreload: { polyfill: false },
    // What no page goes without is apart from ours, which changes more often.
    rollupOptions: { output: { manualChunks: (id) => (/node_modules\/(react|react-dom|scheduler|@tanstack\/(react-router|router-core|history|react-query|query-core|react-store|store))\//.test(id) ? 'vendor' : undefined) } },
  },
  server: { proxy: { '/api': process.env.PENSTOCK_URL ?? 'http://127.0.0.1:8080' } },
})

import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// The server embeds dist (internal/web). In development, `npx vite` asks a server on PENSTOCK_URL.
export default defineConfig({
  plugins: [react()],
  build: { outDir: '../internal/web/dist', emptyOutDir: true, chunkSizeWarningLimit: 1200, modulePreload: { polyfill: false } },
  server: { proxy: { '/api': process.env.PENSTOCK_URL ?? 'http://127.0.0.1:8080' } },
})

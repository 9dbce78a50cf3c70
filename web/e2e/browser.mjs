// Debian's Chromium, with what every way through the pages checks: no error in a page, nothing that axe finds, nothing too wide.
import fs from 'node:fs'
import { AxeBuilder } from '@axe-core/playwright'
import { chromium } from 'playwright-core'

/** Begins a way. What is wrong with a page is told at the end, and makes the exit code 1. */
export async function begin(shots) {
  fs.mkdirSync(shots, { recursive: true })
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] })
  const faults = []
  const pages = []
  process.on('exit', () => faults.forEach((f) => console.log(f)))
  process.on('uncaughtException', async (e) => {
    console.log(e)
    for (const [i, page] of pages.entries()) await page.screenshot({ path: `${shots}/failed-${i}.png`, fullPage: true }).catch(() => {})
    process.exit(1)
  })

  async function open(options) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce', ...options })
    const page = await context.newPage()
    pages.push(page)
    page.on('pageerror', (e) => faults.push(`error in the page: ${e.message}`))
    page.on('console', (m) => m.type() === 'error' && !/status of (40[0139]|422)/.test(m.text()) && faults.push(`console: ${m.text()}`))
    page.on('dialog', (d) => (faults.push('a script of somebody ran'), d.dismiss()))
    return page
  }

  async function look(page, name, options) {
    if (options?.fullPage) await page.evaluate(() => scrollTo(0, 0)) // or the head is in the middle of the picture
    await page.screenshot({ path: `${shots}/${name}.png`, ...options })
    const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21aa']).analyze()
    for (const v of violations) faults.push(`${name}: ${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.target.join(' ') + ' ' + (n.any[0]?.message ?? '')).join(' | ')}`)
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
    if (wide > 0) faults.push(`${name}: the page is ${wide} px wider than its window`)
  }

  async function end() {
    await browser.close()
    process.exitCode = faults.length > 0 ? 1 : 0
  }
  return { open, look, end, faults }
}

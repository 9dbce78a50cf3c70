// Plays the way of a team that releases for the first time: what to write, the form, a gate and who opens it, what somebody sees who
// may only look, and promotion and going back by the keyboard alone.
// node e2e/steer.mjs URL TOKEN SCREENSHOTS READER REVIEWER
// READER and REVIEWER are files with tokens of people who may read acme/shop; REVIEWER is whom its environment guarded waits for. acme/bare has no
// penstock.yaml. In production of acme/shop a check fails, and may.
import assert from 'node:assert/strict'
import fs from 'node:fs'
import { begin } from './browser.mjs'

const [url, token, shots, ...files] = process.argv.slice(2)
const [reader, reviewer] = files.map((f) => fs.readFileSync(f, 'utf8').trim())
const { open, look, end } = await begin(shots)
const whole = { fullPage: true }

/** A page of somebody who is signed in. */
async function signedIn(as, options) {
  const page = await open({ colorScheme: 'light', ...options })
  await page.goto(`${url}/#token=${as}`)
  await page.getByRole('button', { name: 'Sign out' }).waitFor()
  return page
}

const page = await signedIn(token)
const release = (n) => page.getByRole('region', { name: `v${n}`, exact: true })
const state = (n, text) => release(n).getByRole('heading').getByRole('status').getByText(text).waitFor({ timeout: 60_000 })
const dialog = page.getByRole('dialog')

// Nothing is written yet: the pages show what to write.
await page.goto(`${url}/acme/bare/environments`)
await page.getByText('penstock.yaml at the root of the repository').waitFor()
await look(page, 'steer-bare')
await page.goto(`${url}/acme/bare/environments/qa`)
await page.getByText(/environments:\s+qa:/).waitFor()
await look(page, 'steer-bare-environment')

// What is written and was not released yet is listed, and released by the form.
await page.goto(`${url}/acme/shop/environments`)
await page.getByRole('region', { name: 'production', exact: true }).getByText('Nothing was released yet').waitFor()
await look(page, 'steer-declared')
await page.getByRole('link', { name: 'production', exact: true }).click()
await page.getByText('penstock.yaml releases web, api here').waitFor()
await look(page, 'steer-first')
await page.getByRole('button', { name: 'Release', exact: true }).click()
await dialog.getByLabel('api').uncheck()
await dialog.getByLabel('Image').fill('busybox')
await look(page, 'steer-form')
await dialog.getByRole('button', { name: 'Release' }).click()
await dialog.getByRole('alert').getByText('hand files in, not an image').waitFor()
await dialog.getByLabel('web').uncheck()
await dialog.getByRole('button', { name: 'Release' }).click()
await dialog.getByText('Choose a service.').waitFor()
await dialog.getByLabel('api').check()
await dialog.getByLabel('web').check()
assert.equal(await dialog.getByLabel('Image').count(), 0, 'one image for two services')
await dialog.getByLabel('Branch, tag or commit').fill('missing')
await dialog.getByRole('button', { name: 'Release' }).click()
await dialog.getByText('no branch, tag or commit missing').waitFor()
await dialog.getByLabel('Branch, tag or commit').fill('main')
await dialog.getByLabel('Reason').fill('opening day')
await dialog.getByRole('button', { name: 'Release' }).click()
await dialog.waitFor({ state: 'hidden' })
await state(1, /^Serves/)
await page.getByRole('list', { name: /^Traffic of .*api/ }).getByText('v1 100 %').waitFor()

// One service alone, whose check fails and is allowed to.
await page.getByRole('button', { name: 'Release', exact: true }).click()
await dialog.getByLabel('api').uncheck()
await dialog.getByRole('button', { name: 'Release' }).click()
await dialog.waitFor({ state: 'hidden' })
await page.getByRole('table', { name: 'Checks' }).getByText('Fail', { exact: true }).waitFor({ timeout: 60_000 })
await page.getByRole('list', { name: /^Traffic of .*api/ }).getByText('v1 100 %').waitFor()

/** Goes on by Tab until something has the focus. */
async function tabTo(there) {
  for (let i = 0; i < 100; i++) {
    if (await there.evaluate((e) => e === document.activeElement)) return
    await page.keyboard.press('Tab')
  }
  assert.fail(`the keyboard does not come to ${there}`)
}

// Promoted by the keyboard: refused while a check fails, unless that is said.
await page.locator('body').press('Tab')
await tabTo(release(2).getByRole('button', { name: 'Promote' }))
await page.keyboard.press('Enter')
await tabTo(dialog.getByRole('button', { name: 'Promote' }))
await page.keyboard.press('Enter')
await dialog.getByRole('alert').getByText('force it to promote nevertheless').waitFor()
await look(page, 'steer-force')
await tabTo(dialog.getByLabel('Promote it although checks fail'))
await page.keyboard.press('Space')
await tabTo(dialog.getByRole('button', { name: 'Promote' }))
await page.keyboard.press('Enter')
await dialog.waitFor({ state: 'hidden' })
await state(2, 'Serves, watched')

// And back.
await tabTo(release(2).getByRole('button', { name: 'Roll back' }))
await page.keyboard.press('Enter')
await dialog.getByLabel('Reason').and(page.locator(':focus')).waitFor()
await page.keyboard.type('the basket is empty')
await tabTo(dialog.getByRole('button', { name: 'Roll back' }))
await page.keyboard.press('Enter')
const gone = page.getByRole('alert').filter({ hasText: 'v2 aborted' })
await gone.getByText('the basket is empty').waitFor({ timeout: 60_000 })
await page.getByRole('list', { name: /^Traffic of web/ }).getByText('v1 100 %').waitFor()
await look(page, 'steer-taken-back', whole)

// A gate: the reviewer, who may not write, turns one release down and lets the next one go.
const other = await signedIn(reviewer)
for (const [n, word, comment] of [[1, 'Reject', 'not on a Friday'], [2, 'Approve', 'it is Monday']]) {
  await page.goto(`${url}/acme/shop/environments/guarded`)
  await page.getByRole('button', { name: 'Release', exact: true }).click()
  await dialog.getByRole('button', { name: 'Release' }).click()
  await dialog.waitFor({ state: 'hidden' })
  await state(n, 'Waits')
  assert.equal(await page.getByRole('button', { name: 'Review' }).count(), 0, 'somebody else is to review it')
  await other.goto(`${url}/acme/shop/environments/guarded`)
  await other.getByRole('button', { name: 'Review' }).click()
  assert.equal(await other.getByRole('button', { name: 'Abort' }).count(), 0)
  await other.getByLabel('Comment').fill(comment)
  await look(other, `steer-review-${n}`)
  await other.getByRole('dialog').getByRole('button', { name: word }).click()
  await other.getByRole('dialog').waitFor({ state: 'hidden' })
  if (word === 'Reject') await page.getByRole('alert').filter({ hasText: 'v1 aborted' }).getByText(comment).waitFor()
  else await state(n, /^Serves/)
}
await look(page, 'steer-approved', whole)

// Who may only look sees all of it, and no buttons; the server refuses the rest.
const looks = await signedIn(reader)
await looks.goto(`${url}/acme/shop/environments/production`)
await looks.getByText('to release takes the role write').waitFor()
await looks.getByRole('list', { name: /^Traffic of web/ }).getByText('v1 100 %').waitFor()
await looks.getByRole('table', { name: 'Releases' }).getByText('opening day').waitFor()
for (const name of ['Release', 'Promote', 'Pause', 'Set weight', 'Abort', 'Roll back', /^Roll back to/]) assert.equal(await looks.getByRole('button', { name, exact: true }).count(), 0, `${name} for who only looks`)
await look(looks, 'steer-reader', whole)
const refused = await looks.evaluate(async () => {
  const ask = async (path, body) => (await fetch(`/api/penstock/repos/acme/shop/${path}`, { method: 'POST', headers: { 'X-Penstock': '1', 'Content-Type': 'application/json' }, body: JSON.stringify(body) })).status
  const id = (await (await fetch('/api/penstock/repos/acme/shop/environments/production')).json()).releases[0].id
  return [await ask('releases', { environment: 'production' }), await ask(`releases/${id}/promote`, { force: true }), await ask(`releases/${id}/rollback`, {}), await ask('environments/production/rollback', {})]
})
assert.deepEqual(refused, [403, 403, 403, 403])

// Who did what.
await page.getByRole('link', { name: 'Audit' }).click()
const audit = page.getByRole('table', { name: 'Audit log' })
for (const [action, target, who] of [
  ['begin', 'production', 'admin'], ['promote', 'production/v2', 'admin'], ['rollback', 'production/v2', 'admin'], ['reject', 'guarded/v1', 'carol'], ['approve', 'guarded/v2', 'carol'],
]) await audit.getByRole('row').filter({ hasText: `release.${action}` }).filter({ hasText: `acme/shop/environments/${target}` }).filter({ hasText: who }).first().waitFor()
assert.equal(await audit.getByRole('row').filter({ hasText: 'bob' }).filter({ hasText: 'release.' }).count(), 0)
await look(page, 'steer-audit')

// Dark, and as wide as a phone.
const phone = await signedIn(token, { colorScheme: 'dark', viewport: { width: 390, height: 844 } })
for (const [name, path] of [['bare', 'bare/environments'], ['first', 'shop/environments/canteen'], ['taken-back', 'shop/environments/production'], ['guarded', 'shop/environments/guarded/1']]) {
  await phone.goto(`${url}/acme/${path}`)
  await phone.getByText(/strategy: blue-green|the basket is empty|not on a Friday/).first().waitFor()
  await look(phone, `steer-dark-phone-${name}`, whole)
}
await end()

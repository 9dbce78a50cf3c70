// Plays the way of somebody who watches and steers a release, against a server where a canary takes part of the traffic of an
// environment, requests come all the time, and an older release than the one that serves was released too.
// node e2e/releases.mjs URL TOKEN SCREENSHOTS OWNER/REPO ENVIRONMENT
import assert from 'node:assert/strict'
import { begin } from './browser.mjs'

const [url, token, shots, name, environment] = process.argv.slice(2)
const { open, look, end, faults } = await begin(shots)
const whole = { fullPage: true }
const page = await open({ colorScheme: 'light' })

// From the list to the environment.
await page.goto(`${url}/#token=${token}`)
await page.getByRole('link', { name }).waitFor()
await page.goto(`${url}/${name}/environments`)
const card = page.getByRole('region', { name: environment, exact: true })
await card.getByText(/v\d+ \d+ %, v\d+ \d+ %/).first().waitFor()
await look(page, 'releases-list')
await card.getByRole('link', { name: environment, exact: true }).click()

// What serves: both revisions with their shares.
const shares = page.getByRole('list', { name: /^Traffic of / }).first()
await shares.getByRole('listitem').nth(1).waitFor()
const divided = (await shares.getByRole('listitem').allInnerTexts()).map((t) => /v(\d+) (\d+) %/.exec(t).slice(1).map(Number))
assert.equal(divided.length, 2)
assert.equal(divided[0][1] + divided[1][1], 100)
assert.ok(divided.every(([, percent]) => percent > 0), `no canary is under way: ${JSON.stringify(divided)}`)
const version = divided[1][0]
const release = page.getByRole('region', { name: `v${version}`, exact: true })
const state = release.getByRole('heading').getByRole('status')
await release.locator('[aria-current=step]', { hasText: /Shifting/ }).waitFor()
await release.getByRole('table', { name: /^Instances/ }).getByText('healthy').first().waitFor()

// The charts, and their numbers as a table.
const traffic = page.getByRole('region', { name: 'Traffic by revision' })
await traffic.getByRole('img', { name: new RegExp(`^Success rate .*v${version} now`) }).waitFor()
assert.equal(await traffic.getByRole('img').count(), 4)
await traffic.getByText('As a table').click()
await traffic.getByRole('columnheader', { name: `v${version} success rate` }).waitFor()
await look(page, 'releases-environment', whole)
await traffic.getByText('As a table').click()

// The checks.
const checks = page.getByRole('table', { name: 'Checks' })
await checks.getByText(/^(Pass|Fail|Inconclusive)$/).first().waitFor()
await checks.getByText('Query').first().click()
await checks.locator('details[open] pre').waitFor()
await page.getByRole('region', { name: 'Timeline' }).getByRole('listitem').first().waitFor()

/** Presses a button of the release, and the one that confirms it. */
async function steer(button, confirm, fill) {
  await release.getByRole('button', { name: button, exact: true }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByRole('button', { name: confirm }).waitFor()
  await fill?.(dialog)
  await dialog.getByRole('button', { name: confirm }).click()
  await dialog.waitFor({ state: 'hidden' })
}

// What makes no sense now says why, to the keyboard as well.
await release.getByRole('button', { name: 'Roll back', exact: true }).press('Enter')
await release.getByText('It is not promoted: abort it.').waitFor()

// Weight, which pauses; on, pause, on.
const weight = divided[1][1] === 30 ? 35 : 30
await steer('Set weight', /^Set to/, async (dialog) => {
  await dialog.getByLabel('Percent').fill(String(weight))
  await look(page, 'releases-weight')
})
await state.getByText(`Paused at ${weight} %`).waitFor()
await shares.getByText(`v${version} ${weight} %`).waitFor()
await steer('Resume', 'Resume')
await release.getByRole('button', { name: 'Pause', exact: true }).waitFor()
await page.waitForFunction(() => document.activeElement?.tagName === 'BUTTON') // a dialog gives the focus back
await steer('Pause', 'Pause')
await state.getByText(/^Paused/).waitFor()
await steer('Resume', 'Resume')
await state.getByText(/^Paused/).waitFor({ state: 'detached' })

// What was missed while the line was cut is there when it is back.
await page.context().setOffline(true)
const id = (await (await fetch(`${url}/api/penstock/repos/${name}/environments/${environment}`, { headers: { authorization: `token ${token}` } })).json()).releases[0].id
await fetch(`${url}/api/penstock/repos/${name}/releases/${id}/weight`, { method: 'POST', headers: { authorization: `token ${token}` }, body: '{"weight": 20}' })
await page.context().setOffline(false)
await shares.getByText(`v${version} 20 %`).waitFor()

// Abort, and its outcome.
await steer('Abort', 'Abort', async (dialog) => {
  await dialog.getByText(/All traffic goes back/).waitFor()
  await dialog.getByLabel('Reason').fill('the basket is empty')
  await look(page, 'releases-abort')
})
const history = page.getByRole('table', { name: 'Releases' })
const row = (v) => history.getByRole('row').filter({ has: page.getByRole('link', { name: `v${v}`, exact: true }) })
await row(version).getByText('Aborted', { exact: true }).waitFor({ timeout: 60_000 })
await shares.getByText(`v${divided[0][0]} 100 %`).waitFor()
await look(page, 'releases-aborted', whole)
await row(version).getByRole('link', { name: `v${version}`, exact: true }).click()
await page.waitForURL(new RegExp(`/${version}$`))
await page.getByRole('alert').getByText('the basket is empty').waitFor()
await page.getByRole('region', { name: 'Timeline' }).getByText('the basket is empty').first().waitFor()
await page.getByRole('table', { name: 'Services of the release' }).waitFor()
await look(page, 'releases-release', whole)
await page.goBack()

// Back to an older version.
const older = history.getByRole('button', { name: /^Roll back to v/ }).first()
const to = /v\d+/.exec(await older.getAttribute('aria-label'))[0]
await older.click()
await page.getByRole('dialog').getByLabel('Reason').fill('as it was')
await look(page, 'releases-rollback')
await page.getByRole('dialog').getByRole('button', { name: `Roll back to ${to}` }).click()
await history.getByRole('row').nth(1).filter({ hasText: 'as it was' }).getByText(/^Serves/).waitFor({ timeout: 60_000 })
await look(page, 'releases-rolled-back', whole)

await history.getByRole('row').nth(1).getByRole('link', { name: to, exact: true }).waitFor() // which it restores
await page.getByRole('region', { name: `v${version + 1}`, exact: true }).getByRole('link', { name: to, exact: true }).waitFor()

// All of it is in the audit log, with who did it.
await page.getByRole('link', { name: 'Audit' }).click()
const audit = page.getByRole('table', { name: 'Audit log' })
for (const action of ['weight', 'resume', 'pause', 'abort']) {
  await audit.getByRole('row').filter({ hasText: `release.${action}` }).filter({ hasText: `${name}/environments/${environment}/v${version}` }).filter({ hasText: 'admin' }).first().waitFor()
}
await audit.getByRole('row').filter({ hasText: 'release.rollback' }).filter({ hasText: 'as it was' }).first().waitFor()

// Dark, and as wide as a phone.
const phone = await open({ colorScheme: 'dark', viewport: { width: 390, height: 844 } })
await phone.goto(`${url}/#token=${token}`)
await phone.getByRole('link', { name }).waitFor()
for (const path of ['', `/${encodeURIComponent(environment)}`, `/${encodeURIComponent(environment)}/${version}`]) {
  await phone.goto(`${url}/${name}/environments${path}`)
  await phone.getByRole('heading', { level: 2 }).first().waitFor()
  await phone.waitForLoadState('load')
  await phone.locator('.mantine-Loader-root').waitFor({ state: 'hidden' })
  await look(phone, `releases-dark-phone${path.replaceAll('/', '-')}`, whole)
}
// What asked while the line was cut has said so.
faults.splice(0, faults.length, ...faults.filter((fault) => !fault.includes('ERR_INTERNET_DISCONNECTED')))
await end()

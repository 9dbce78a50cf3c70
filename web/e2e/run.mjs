// Plays a user's way through the pages in Debian's Chromium, against a server with a repository acme/shop.
// node e2e/run.mjs URL TOKEN SCREENSHOTS
// The runs are: 1 with jobs that fail, warn and print colours, 2 with a log of 200,000 lines, 3 whose deployment waits.
import assert from 'node:assert/strict'
import { begin } from './browser.mjs'

const [url, token, shots] = process.argv.slice(2)
const { open, look, end } = await begin(shots)

const page = await open({ colorScheme: 'light' })

// Signing in.
await page.goto(url)
await page.getByLabel('Token').fill('pst_nobodys')
await page.getByRole('button', { name: 'Sign in' }).click()
await page.getByRole('alert').waitFor()
await look(page, 'sign-in')
await page.goto('about:blank') // where one comes from
await page.goto(`${url}/#token=${token}`)
await page.getByRole('link', { name: 'acme/shop' }).waitFor()
assert.ok(!page.url().includes(token), 'the token stays in the address')
await look(page, 'repositories')

// A run.
await page.getByRole('link', { name: 'acme/shop' }).click()
await page.getByRole('link', { name: 'A run to look at' }).waitFor()
await look(page, 'runs')
await page.getByRole('link', { name: 'A run to look at' }).click()
await page.getByText('Something is odd').waitFor()
await page.getByRole('heading', { name: 'What was tested' }).first().waitFor()
assert.equal(await page.locator('.markdown script, .markdown [onerror]').count(), 0)
await look(page, 'run')

// A log: colours, search, folding, links to lines.
await page.getByRole('navigation', { name: 'Jobs' }).getByRole('link', { name: 'test (3.10)' }).click()
await page.getByText('Process completed with exit code 1.').waitFor()
assert.deepEqual(await page.locator('nav[aria-label=Jobs] [aria-current=page]').allInnerTexts(), ['test (3.10)'])
await page.getByRole('button', { name: /seq 1 300/ }).click()
await page.getByText('line 7 of 3.10', { exact: true }).waitFor()
assert.equal(await page.locator('.log .fg-1').first().count(), 1)
await page.getByLabel('Search the log').fill('line 299 of')
await page.getByLabel('Search the log').press('Enter')
await page.locator('.log .found').waitFor()
assert.match(await page.locator('.log .found').innerText(), /line 299 of 3\.10/)
await page.locator('.log .found .no').click()
assert.match(page.url(), /#L\d+$/)
await page.reload()
await page.locator('.log .chosen', { hasText: 'line 299 of' }).waitFor()
await page.getByLabel('Times').check()
await page.locator('.log .time', { hasText: /\d:\d/ }).first().waitFor()
await look(page, 'log')
assert.equal(await page.locator('.log img').count(), 0, 'a line of the log became markup')

// 200,000 lines.
await page.goto(`${url}/acme/shop/actions/runs/2`)
const began = Date.now()
await page.getByRole('navigation', { name: 'Jobs' }).getByRole('link', { name: 'long' }).click()
await page.getByRole('button', { name: /seq 200000/ }).click()
await page.getByText('1', { exact: true }).first().waitFor()
const opened = Date.now() - began
await page.getByLabel('Search the log').fill('199999')
await page.getByLabel('Search the log').press('Enter')
await page.locator('.log .found', { hasText: '199999' }).waitFor()
const frames = await page.evaluate(async () => {
  const box = document.querySelector('.log')
  const times = []
  let last = performance.now()
  for (let i = 0; i < 60; i++) {
    box.scrollTop -= 3000
    await new Promise(requestAnimationFrame)
    times.push(performance.now() - last)
    last = performance.now()
  }
  return times.sort((a, b) => a - b)
})
console.log(`the log of 200,000 lines was open after ${opened} ms; a frame while it scrolls took ${frames[30].toFixed(0)} ms (p50), ${frames[57].toFixed(0)} ms (p95)`)
await look(page, 'long-log')

// Starting a run by a form, and seeing it live without a reload.
await page.goto(`${url}/acme/shop/actions`)
await page.getByRole('button', { name: 'Run a workflow' }).click()
await page.getByRole('dialog').getByRole('textbox', { name: 'Workflow' }).click()
await page.getByRole('option', { name: 'Manual' }).click()
await page.getByRole('textbox', { name: 'Where to' }).waitFor()
await look(page, 'dispatch')
await page.getByRole('button', { name: 'Run it' }).click()
await page.getByRole('link', { name: 'By hand to staging' }).click()
await page.getByRole('navigation', { name: 'Jobs' }).getByRole('link', { name: 'live' }).click()
await page.getByText('tick 3', { exact: true }).waitFor()
await page.getByRole('heading', { name: 'By hand to staging' }).waitFor()
await page.locator('.sign[aria-label=Success]').first().waitFor()

// A review.
await page.goto(`${url}/acme/shop/actions/runs/3`)
await page.getByRole('button', { name: 'Review deployments' }).click()
await page.getByLabel('Comment').fill('looks good')
await look(page, 'review')
await page.getByRole('button', { name: 'Approve and deploy' }).click()
await page.getByText('Success').first().waitFor({ state: 'attached' })
await page.goto(`${url}/acme/shop/environments`)
await page.getByText('success', { exact: true }).first().waitFor()
await look(page, 'environments')

// Secrets.
await page.goto(`${url}/acme/shop/settings`)
const secrets = page.getByRole('region', { name: 'Secrets' })
await secrets.getByLabel('Name').fill('TOKEN')
await secrets.getByLabel('Value', { exact: true }).fill('a value')
await secrets.getByRole('button', { name: 'Save secret' }).click()
await secrets.getByRole('cell', { name: 'TOKEN', exact: true }).waitFor()
await look(page, 'settings')

// Another attempt: the first keeps its page and its logs.
await page.goto(`${url}/acme/shop/actions/runs/3`)
await page.getByRole('button', { name: 'Re-run all jobs' }).click()
await page.getByRole('navigation', { name: 'Attempts' }).getByRole('link', { name: '1', exact: true }).click()
await page.waitForURL(/attempts\/1$/)
await page.locator('nav[aria-label=Attempts] [aria-current=page]', { hasText: '1' }).waitFor()
assert.equal(await page.locator('nav[aria-label=Attempts] [aria-current=page]').count(), 1)
await page.getByRole('navigation', { name: 'Jobs' }).getByRole('link', { name: 'deploy' }).click()
await page.getByRole('button', { name: /Set up job/ }).waitFor()
assert.match(page.url(), /attempts\/1\/job\/\d+$/)
await look(page, 'attempt')

// Caches, and what is the server's: runners, people, the record of who did what.
await page.goto(`${url}/acme/shop/caches`)
await page.getByText('deps-1').waitFor()
await look(page, 'caches')
await page.getByRole('button', { name: 'Remove deps-1' }).click()
await page.getByText('No caches yet').waitFor()
await page.getByRole('link', { name: 'Runners' }).click()
await page.getByRole('button', { name: 'Add a runner' }).click()
await page.getByText('PENSTOCK_RUNNER_TOKEN=').waitFor()
await look(page, 'runners')
await page.getByRole('link', { name: 'admin' }).click()
const tokens = page.getByRole('region', { name: 'Tokens' })
await tokens.getByLabel('Name').fill('laptop')
await tokens.getByRole('button', { name: 'Make a token' }).click()
await tokens.getByRole('status').getByText(/^pst_/).waitFor()
const people = page.getByRole('region', { name: 'People' })
await people.getByLabel('Login').fill('ada')
await people.getByRole('button', { name: 'Add a person' }).click()
const link = await people.getByRole('status').locator('pre').innerText()
await look(page, 'account')
await page.goto(`${url}/acme/shop/settings`)
await page.getByRole('region', { name: 'People' }).getByLabel('Login').fill('ada')
await page.getByRole('button', { name: 'Give access' }).click()
await page.getByRole('cell', { name: 'ada', exact: true }).waitFor()
await page.getByRole('link', { name: 'Audit' }).click()
await page.getByRole('cell', { name: 'user.create' }).first().waitFor()
await page.getByRole('button', { name: 'Verify' }).click()
await page.getByText('The log is as it was written').waitFor()
await look(page, 'audit')
const invited = await open({ colorScheme: 'dark' })
await invited.goto(link)
await invited.getByRole('link', { name: 'acme/shop' }).click()
await invited.getByRole('link', { name: 'A run to look at' }).waitFor()
assert.equal(await invited.getByRole('link', { name: 'Audit' }).count(), 0)

// What is markup elsewhere is text here: the message of a commit, a branch, the names of a workflow, a job and a step, an annotation.
await page.goto(`${url}/acme/shop/actions/runs/4`)
await page.getByRole('heading', { name: '<img src=x onerror=alert(5)>' }).waitFor()
await page.getByText('<img/src=x/onerror=alert(4)>').first().waitFor()
await page.getByText('<img src=x onerror=alert(10)>').first().waitFor()
await page.getByRole('link', { name: /<img src=x onerror=alert\(7\)>/ }).first().click()
await page.getByText('<img src=x onerror=alert(8)>').first().waitFor()
assert.equal(await page.locator('img[src="x"]').count(), 0)
await look(page, 'hostile')

// A pull request.
await page.goto(`${url}/acme/shop/pulls`)
await page.getByRole('link', { name: /<b>Feature/ }).click()
await page.getByRole('heading', { name: 'Checks' }).waitFor()
await page.getByText('+more').waitFor()
await look(page, 'pull')

// Dark, and as wide as a phone.
const phone = await open({ colorScheme: 'dark', viewport: { width: 390, height: 844 } })
await phone.goto(`${url}/#token=${token}`)
await phone.getByRole('link', { name: 'acme/shop' }).waitFor()
for (const [name, path] of [['runs', 'actions'], ['run', 'actions/runs/1'], ['environments', 'environments'], ['settings', 'settings'], ['audit', '../../audit'], ['account', '../../account']]) {
  await phone.goto(`${url}/acme/shop/${path}`)
  await phone.getByRole('heading', { level: 1 }).waitFor()
  await phone.waitForLoadState('load')
  await look(phone, `dark-phone-${name}`)
}

// Signing out.
await page.goto(url)
await page.getByRole('button', { name: 'Sign out' }).click()
await page.getByRole('button', { name: 'Sign in' }).waitFor()

await end()

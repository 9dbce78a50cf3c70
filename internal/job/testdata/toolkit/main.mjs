// Uses the library in one of its versions as actions do.
import * as fs from 'node:fs'
import * as path from 'node:path'
const core = await import(process.env.CORE)

core.setSecret('hunter22')
const input = core.getInput('some-input', {required: true})
if (input === 'fail') {
  core.setFailed('it failed: hunter22')
} else {
  console.log(`main: input=${input}, flag=${core.getBooleanInput('flag')}, lines=${core.getMultilineInput('lines').join('|')}`)
  await core.group('a group', async () => core.info('within'))
  core.info('the secret is hunter22')
  core.debug('hidden from the log')
  core.setOutput('text', 'two\nlines & 100%')
  core.setOutput('object', {a: 1})
  core.exportVariable('EXPORTED', 'of\nlines')
  const tools = path.join(process.env.RUNNER_TEMP, 'tools of the action')
  fs.mkdirSync(tools)
  fs.writeFileSync(path.join(tools, 'tool-of-the-action'), '#!/bin/sh\nprintf "from the path"\n', {mode: 0o755})
  core.addPath(tools)
  core.saveState('line', 'one line')
  core.saveState('object', {kept: [1, 2]})
  core.error('bad\nvery bad, 100%', {title: 'A: title, here', file: 'src/a.go', startLine: 3, endLine: 3, startColumn: 4, endColumn: 5})
  core.warning('hm')
  core.notice('well', {file: 'src/b.go'})
  await core.summary.addHeading('Results').addTable([[{data: 'name', header: true}], ['x']]).addRaw('hidden: hunter22').write()
}

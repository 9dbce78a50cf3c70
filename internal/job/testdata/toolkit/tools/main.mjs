// Uses the libraries for tools, patterns and commands, in one of their versions, as setup actions do.
import * as fs from 'node:fs/promises'
import * as http from 'node:http'
import * as os from 'node:os'
import * as path from 'node:path'
const [cache, glob, exec, io] = await Promise.all(['TOOL_CACHE', 'GLOB', 'EXEC', 'IO'].map(name => import(process.env[name])))

// A tool is downloaded, unpacked, kept, and found by its range.
const work = await fs.mkdtemp(path.join(process.env.RUNNER_TEMP, 'tools-'))
await fs.mkdir(path.join(work, 'bin'))
await fs.writeFile(path.join(work, 'bin', 'hello'), '#!/bin/sh\necho "hello $1"\n', {mode: 0o755})
await exec.exec('tar', ['-czf', path.join(work, 'tool.tgz'), '-C', work, 'bin'], {silent: true})
const server = http.createServer(async (_, answer) => answer.end(await fs.readFile(path.join(work, 'tool.tgz'))))
await new Promise(done => server.listen(0, '127.0.0.1', done))
const archive = await cache.downloadTool(`http://127.0.0.1:${server.address().port}/tool.tgz`)
server.close()
const kept = await cache.cacheDir(await cache.extractTar(archive), 'hello', '1.2.3', os.arch())
console.log(`kept: ${kept === cache.find('hello', '1.x')}, below the tool cache: ${kept.startsWith(process.env.RUNNER_TOOL_CACHE)}, versions: ${cache.findAllVersions('hello')}`)

// Commands.
const said = await exec.getExecOutput(path.join(kept, 'bin', 'hello'), ['world'], {silent: true})
console.log(`exec: ${said.exitCode} ${said.stdout.trim()}`)
console.log(`fails: ${await exec.exec('sh', ['-c', 'exit 3'], {ignoreReturnCode: true, silent: true})}`)
console.log(`refused: ${await exec.exec('sh', ['-c', 'exit 3'], {silent: true}).catch(e => e.message.includes('exit code 3'))}`)
await io.mkdirP('deep/er')
await io.cp('a.txt', 'deep/er/b.txt')
await io.mv('deep/er/b.txt', 'deep/c.txt')
console.log(`io: ${await fs.readFile('deep/c.txt', 'utf8')} ${path.basename(await io.which('sh', true))}`)
await io.rmRF('deep/er')

// Patterns.
const globber = await glob.create('**/*.txt\n!ignored.txt')
console.log(`glob: ${(await globber.glob()).map(p => path.relative(process.cwd(), p)).sort()}`)
console.log(`hash: ${await glob.hashFiles('**/*.txt')}`)

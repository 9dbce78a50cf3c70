// Uses one of GitHub's clients as an action would: node use.mjs PACKAGE KIND DIRECTORY. Prints one line of JSON at the end.
import * as fs from 'node:fs/promises'
import * as path from 'node:path'

const [name, kind, dir] = process.argv.slice(2)
const client = await import(name)
const said = {}
const attempt = async what => {
  try {
    return await what()
  } catch (e) {
    return `${e.name}: ${e.message}`
  }
}

if (kind === 'artifact') {
  const artifacts = new client.DefaultArtifactClient()
  const files = ['a.txt', 'deep/big.bin'].map(f => path.join(dir, f))
  const up = await artifacts.uploadArtifact('thing', files, dir, { compressionLevel: 0, retentionDays: 1 })
  said.uploaded = up.size > 9_000_000 && up.id > 0 && up.digest.length === 64
  said.again = await attempt(() => artifacts.uploadArtifact('thing', files, dir))
  said.listed = (await artifacts.listArtifacts()).artifacts.map(a => [a.name, a.size === up.size, a.id === up.id])
  said.found = (await artifacts.getArtifact('thing')).artifact.id === up.id
  said.missing = await attempt(() => artifacts.getArtifact('nothing'))
  const got = path.join(dir, '..', 'got')
  const down = await artifacts.downloadArtifact(up.id, { path: got, expectedHash: 'sha256:' + up.digest })
  said.mismatch = down.digestMismatch ?? false
  said.same = (await fs.readFile(path.join(got, 'deep/big.bin'))).equals(await fs.readFile(files[1]))
  said.deleted = (await artifacts.deleteArtifact('thing')).id === up.id
  said.left = (await artifacts.listArtifacts()).artifacts.length
} else if (kind === 'identity') {
  const token = await client.getIDToken('sts.example.com')
  const [head, claims] = token.split('.').slice(0, 2).map(part => JSON.parse(Buffer.from(part, 'base64url')))
  Object.assign(said, { alg: head.alg, aud: claims.aud, sub: claims.sub, plain: (await client.getIDToken()).split('.').length })
} else {
  process.chdir(dir)
  const paths = ['deep']
  said.available = client.isFeatureAvailable()
  said.miss = (await client.restoreCache(paths, 'k-1', ['k-'])) ?? 'none'
  said.saved = (await client.saveCache(paths, 'k-1', { uploadChunkSize: 1 << 20 })) !== -1
  said.again = await attempt(async () => (await client.saveCache(paths, 'k-1')) === -1 ? 'refused' : 'saved')
  const before = await fs.readFile('deep/big.bin')
  await fs.rm('deep', { recursive: true })
  said.exact = await client.restoreCache(paths, 'k-1')
  said.same = (await fs.readFile('deep/big.bin')).equals(before)
  said.prefix = await client.restoreCache(paths, 'k-2', ['x', 'k-'])
  said.other = (await client.restoreCache(['a.txt'], 'k-1')) ?? 'none'
  said.long = await attempt(() => client.restoreCache(paths, 'k'.repeat(513)))
}
console.log('\n' + JSON.stringify(said))

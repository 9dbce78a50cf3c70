// node artifact.mjs up|down: an artifact by GitHub's own client. Prints how long the transfer took, in nanoseconds: without
// the start of Node.js, with it reading and packing.
import { DefaultArtifactClient } from 'artifact-6'
const client = new DefaultArtifactClient()
const [way, name] = process.argv.slice(2)
const began = process.hrtime.bigint()
if (way === 'up') {
  await client.uploadArtifact(name, ['big.bin'], '.', { compressionLevel: 0 })
} else {
  const { artifact } = await client.getArtifact(name)
  await client.downloadArtifact(artifact.id, { path: 'got' })
}
console.log('\n' + (process.hrtime.bigint() - began))

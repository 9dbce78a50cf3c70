const core = await import(process.env.CORE)
console.log(`post: ${core.getState('line')}, ${core.getState('object')}`)

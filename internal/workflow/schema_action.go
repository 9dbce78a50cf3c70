package workflow

import "sync"

// actionSchema is the schema of an action's file (actions/runner action_yaml.json).
var actionSchema = sync.OnceValue(func() *definition {
	return compileSchema(schemaSource{lists: map[string]string{
		"if":   "github inputs strategy matrix steps job runner env always failure cancelled success hashFiles",
		"step": "github inputs strategy matrix steps job runner env hashFiles",
	}, text: actionSchemaText})["root"]
})

// callTypes are the types of a called workflow's inputs.
var callTypes = sync.OnceValue(func() map[string]*definition { return compileSchema(schemaSource{}) })

const actionSchemaText = `
step-text = string (@step)
step-texts = { *text: string } (@step)
run-step = {
	name: step-text
	id: text
	if: string (@if)
	run!: step-text
	env: step-texts
	continue-on-error: boolean (@step)
	working-directory: step-text
	shell!: step-text
}
action-step = {
	name: step-text
	id: text
	if: string (@if)
	uses!: text
	continue-on-error: boolean (@step)
	with: step-texts
	env: step-texts
}
container-runs = {
	using: text
	image: text
	entrypoint: text
	args: [string (inputs)]
	env: { *text: string } (inputs)
	pre-entrypoint: text
	pre-if: text
	post-entrypoint: text
	post-if: text
}
node-runs = { using: text, main: text, pre: text, pre-if: text, post: text, post-if: text }
plugin-runs = { plugin: text }
composite-runs = { using: text, steps: [run-step | action-step] }
root = {
	name: string
	description: string
	inputs: { *text: {
		default: string (github strategy matrix job runner hashFiles)
		*text: any
	} }
	runs: container-runs | node-runs | plugin-runs | composite-runs
	outputs: { *text: {
		description: string
		value: string (github strategy matrix steps inputs job runner env)
	} }
	*text: any
}
`

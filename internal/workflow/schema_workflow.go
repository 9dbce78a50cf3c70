package workflow

import "sync"

// anything is the definition of any value.
var anything = sync.OnceValue(func() *definition { return compileSchema(schemaSource{})["any"] })

// workflowSchema is the strict schema of a workflow file: what GitHub's editors check (workflow-root-strict), which is
// newer than the runner's own, with the runner's contexts where the two differ.
var workflowSchema = sync.OnceValue(func() *definition {
	return compileSchema(schemaSource{lists: map[string]string{
		"run":  "github inputs vars",
		"job":  "github inputs vars needs",
		"cell": "github inputs vars needs strategy matrix",
		"if":   "github inputs vars needs strategy matrix steps job runner env always failure cancelled success hashFiles",
		"step": "github inputs vars needs strategy matrix secrets steps job runner env hashFiles",
	}, text: workflowSchemaText + triggerSchemaText + rootSchemaText})["root"]
})

const rootSchemaText = `
root = {
	on!: on
	name: string
	description: string
	run-name: string (@run)
	defaults: { run: { shell: text, working-directory: text } }
	env: { *text: string } (@run secrets)
	permissions: permissions
	concurrency: string | concurrency (@run)
	jobs!: { *text: job }
}
`

const workflowSchemaText = `
texts = text | [text]

level = one-of(read write none)
permissions = {
	actions: level
	artifact-metadata: level
	attestations: level
	checks: level
	code-quality: level
	contents: level
	copilot-requests: one-of(write none)
	deployments: level
	discussions: level
	drives: level
	id-token: one-of(write none)
	issues: level
	models: one-of(read none)
	packages: level
	pages: level
	pull-requests: level
	repository-projects: level
	security-events: level
	statuses: level
	vulnerability-alerts: one-of(read none)
} | 'read-all' | 'write-all'

concurrency = {
	group!: text
	cancel-in-progress: boolean
	queue: one-of(single max)
}

# jobs
strategy = {
	fail-fast: boolean
	max-parallel: number
	matrix: {
		include: [{ *text: any }]
		exclude: [{ *text: any }]
		*text: sequence
	}
} (@job)

credentials = { username: text, password: text } (@run secrets env)
container-env = { *text: string (@cell secrets steps job runner env) }
container = string | {
	image: string
	options: string
	env: container-env
	ports: [text]
	volumes: [text]
	credentials: credentials
} (@cell)
service = string | {
	image: string
	options: string
	entrypoint: string
	command: string
	env: container-env
	ports: [text]
	volumes: [text]
	credentials: credentials
} (@cell)

needs = [text] | text
job-if = string (@job always cancelled failure+ success+)
job-concurrency = text | concurrency (@cell)

ordinary-job = {
	needs: needs
	if: job-if
	strategy: strategy
	name: string (@cell)
	runs-on!: text | [text] | { group: text, labels: texts } (@cell)
	timeout-minutes: number (@cell)
	cancel-timeout-minutes: number (@cell)
	continue-on-error: boolean (@cell)
	container: container
	services: { *text: service } (@cell)
	env: { *text: string } (@cell secrets)
	environment: string | {
		name!: string (@cell)
		url: string (@cell steps job runner env)
		deployment: boolean
	} (@cell)
	permissions: permissions
	concurrency: job-concurrency
	outputs: { *text: string (@cell secrets steps job runner env) }
	defaults: { run: { shell: text, working-directory: text } (@run strategy matrix needs env) }
	steps: [^step]
	snapshot: text | { image-name!: text, if: string (@if), version: text } (@cell)
}
call-job = {
	name: string (@cell)
	uses!: text
	with: { *text: string | boolean | number (@cell) }
	secrets: { *text: string | boolean | number (@cell secrets) } | 'inherit'
	needs: needs
	if: job-if
	permissions: permissions
	concurrency: job-concurrency
	strategy: strategy
}
job = ordinary-job | call-job

# steps
step-name = string (@step)
step-if = string (@if)
step-boolean = boolean (@step)
step-number = number (@step)
step-text = string (@step)
step-texts = { *text: string } (@step)
run-step = {
	name: step-name
	id: text
	if: step-if
	timeout-minutes: step-number
	run!: step-text
	continue-on-error: step-boolean
	env: step-texts
	working-directory: step-text
	shell: text
	background: boolean
}
action-step = {
	name: step-name
	id: text
	if: step-if
	continue-on-error: step-boolean
	timeout-minutes: step-number
	uses!: text
	with: step-texts
	env: step-texts
	background: boolean
}
wait-step = { name: step-name, id: text, continue-on-error: step-boolean, wait!: texts }
wait-all-step = { name: step-name, id: text, continue-on-error: step-boolean, wait-all!: null | boolean }
cancel-step = { name: step-name, id: text, continue-on-error: step-boolean, cancel!: text }
parallel-step = { parallel!: [^step] }
step = run-step | action-step | wait-step | wait-all-step | cancel-step | parallel-step
`

const triggerSchemaText = `
nothing = null
patterns = texts
filtered-pull-request = null | {
	types: strings(
		assigned unassigned labeled unlabeled opened edited closed reopened synchronize converted_to_draft locked unlocked
		enqueued dequeued milestoned demilestoned ready_for_review review_requested review_request_removed
		auto_merge_enabled auto_merge_disabled stacked)
	branches: patterns
	branches-ignore: patterns
	paths: patterns
	paths-ignore: patterns
}
comment = null | { types: strings(created edited deleted) }

call-input-default = string | boolean | number (@run)
workflow-call = null | {
	inputs: { *text: {
		description: string
		type!: one-of(string boolean number)
		required: boolean
		default: call-input-default
	} }
	secrets: { *text: null | { description: string, required: boolean } }
	outputs: { *text: { description: string, value!: string (@run jobs) } }
}
workflow-dispatch = null | {
	inputs: { *text: {
		description: string
		type: one-of(string boolean number environment choice)
		required: boolean
		default: string | boolean | number
		options: [string]
	} }
}

events = {
	branch_protection_rule: comment
	check_run: null | { types: strings(completed created rerequested requested_action) }
	check_suite: null | { types: strings(completed) }
	create: nothing
	delete: nothing
	deployment: nothing
	deployment_status: nothing
	discussion: null | { types: strings(
		created edited deleted transferred pinned unpinned labeled unlabeled locked unlocked category_changed answered unanswered) }
	discussion_comment: comment
	fork: nothing
	gollum: nothing
	image_version: null | { types: strings(created ready deleted), names: texts, versions: texts }
	issue_comment: comment
	issues: null | { types: strings(
		opened edited deleted transferred pinned unpinned closed reopened assigned unassigned labeled unlabeled locked unlocked
		milestoned demilestoned field_added field_removed typed untyped) }
	label: comment
	merge_group: null | { types: strings(checks_requested), branches: patterns, branches-ignore: patterns }
	milestone: null | { types: strings(created closed opened edited deleted) }
	page_build: nothing
	project: null | { types: strings(created closed reopened edited deleted) }
	project_card: null | { types: strings(created moved converted edited deleted) }
	project_column: null | { types: strings(created updated moved deleted) }
	public: nothing
	pull_request: filtered-pull-request
	pull_request_comment: comment
	pull_request_review: null | { types: strings(submitted edited dismissed) }
	pull_request_review_comment: comment
	pull_request_target: filtered-pull-request
	push: null | {
		branches: patterns
		branches-ignore: patterns
		tags: patterns
		tags-ignore: patterns
		paths: patterns
		paths-ignore: patterns
	}
	registry_package: null | { types: strings(published updated) }
	release: null | { types: strings(published unpublished created edited deleted prereleased released) }
	repository_dispatch: null | { types: [text] }
	schedule: [{ cron!: text, timezone: text }]
	status: nothing
	watch: null | { types: strings(started) }
	workflow_call: workflow-call
	workflow_dispatch: workflow-dispatch
	workflow_run: null | {
		types: strings(requested completed in_progress)
		workflows: texts
		branches: patterns
		branches-ignore: patterns
	}
}
event = one-of(
	branch_protection_rule check_run check_suite create delete deployment deployment_status discussion discussion_comment fork
	gollum image_version issue_comment issues label merge_group milestone page_build project project_card project_column public
	pull_request pull_request_comment pull_request_review pull_request_review_comment pull_request_target push
	registry_package release repository_dispatch schedule status watch workflow_call workflow_dispatch workflow_run)
on = event | [event] | events
`

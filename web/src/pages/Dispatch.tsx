import { Alert, Button, Checkbox, NumberInput, Select, Stack, TextInput } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { native, queries, send, type Workflow } from '../api'

interface Input {
  name: string
  description?: string
  type: string
  required: boolean
  default?: string
  options?: string[]
}

/** A form for workflow_dispatch, with the inputs as the workflow declares them on the chosen branch. */
export function Dispatch({ name, branch, workflows, done }: { name: string; branch: string; workflows: Workflow[]; done: () => void }) {
  const [workflow, setWorkflow] = useState<string | null>(null)
  const [ref, setRef] = useState(branch)
  const [values, setValues] = useState<Record<string, string>>({})
  const [error, setError] = useState('')
  const inputs = useQuery({
    queryKey: ['inputs', name, workflow, ref], enabled: workflow !== null, retry: false,
    queryFn: () => native<{ inputs: Input[] }>(`/repos/${name}/workflows/${workflow}/inputs?ref=${encodeURIComponent(ref)}`),
  })
  const set = (input: string) => (value: string) => setValues({ ...values, [input]: value })
  const value = (i: Input) => values[i.name] ?? i.default ?? (i.type === 'boolean' ? 'false' : '')
  const start = async () => {
    setError('')
    const given = Object.fromEntries((inputs.data?.inputs ?? []).map((i) => [i.name, value(i)]).filter(([, v]) => v !== ''))
    try {
      await send('POST', `/repos/${name}/actions/workflows/${workflow}/dispatches`, { ref, inputs: given })
      await queries.invalidateQueries({ queryKey: ['runs', name] })
      done()
    } catch (e) {
      setError((e as Error).message)
    }
  }
  return (
    <form
      onSubmit={(e) => {
        e.preventDefault()
        void start()
      }}
    >
      <Stack>
        <Select label="Workflow" data={workflows.filter((w) => w.state === 'active').map((w) => ({ value: String(w.id), label: w.name }))} value={workflow} onChange={setWorkflow} comboboxProps={{ withinPortal: false }} data-autofocus />
        <TextInput label="Branch or tag" value={ref} onChange={(e) => setRef(e.currentTarget.value)} />
        {inputs.error && <Alert color="yellow">{inputs.error.message}</Alert>}
        {(inputs.data?.inputs ?? []).map((i) => {
          const common = { label: i.description || i.name, required: i.required, key: i.name }
          if (i.type === 'boolean') return <Checkbox {...common} key={i.name} required={false} checked={value(i) === 'true'} onChange={(e) => set(i.name)(String(e.currentTarget.checked))} />
          if (i.options) return <Select {...common} key={i.name} data={i.options} value={value(i) || null} onChange={(v) => set(i.name)(v ?? '')} comboboxProps={{ withinPortal: false }} />
          if (i.type === 'number') return <NumberInput {...common} key={i.name} value={value(i)} onChange={(v) => set(i.name)(String(v))} />
          return <TextInput {...common} key={i.name} value={value(i)} onChange={(e) => set(i.name)(e.currentTarget.value)} />
        })}
        {error && (
          <Alert color="red" role="alert">
            {error}
          </Alert>
        )}
        <Button type="submit" disabled={!inputs.data}>
          Run it
        </Button>
      </Stack>
    </form>
  )
}

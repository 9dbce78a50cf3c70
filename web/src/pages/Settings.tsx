import { Alert, Button, Code, Group, Paper, PasswordInput, Select, Stack, Table, Text, TextInput, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useParams } from '@tanstack/react-router'
import { useState } from 'react'
import { github, queries, send } from '../api'
import { ago } from '../format'
import { Problem, RepositoryHead } from '../parts'

interface Secret {
  name: string
  updated_at: string
}

interface Variable extends Secret {
  value: string
}

/** Secrets and variables of the repository or of one of its environments, and its people. Values of secrets go in and never come out. */
export function Settings() {
  const { owner, repo } = useParams({ strict: false }) as { owner: string; repo: string }
  const base = `/repos/${owner}/${repo}`
  const [environment, setEnvironment] = useState<string | null>(null)
  const environments = useQuery({ queryKey: ['environments', base], queryFn: () => github<{ environments: { name: string }[] }>(`${base}/environments?per_page=100`) })
  const path = environment ? `${base}/environments/${encodeURIComponent(environment)}` : `${base}/actions`
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="settings" />
      <Select
        mb="md" w={260} label="Belongs to" placeholder="The repository" clearable data={environments.data?.environments.map((e) => e.name) ?? []}
        value={environment} onChange={setEnvironment}
      />
      <Stack>
        <Secrets key={path + 's'} path={path} />
        <Variables key={path + 'v'} path={path} />
        {!environment && <Collaborators base={base} />}
      </Stack>
    </>
  )
}

/** Seals a value so that the server alone can open it, as gh does. */
async function seal(value: string, key: string): Promise<string> {
  const { default: sealedBox } = await import('tweetnacl-sealedbox-js')
  const bytes = (s: string) => Uint8Array.from(atob(s), (c) => c.charCodeAt(0))
  return btoa(String.fromCharCode(...sealedBox.seal(new TextEncoder().encode(value), bytes(key))))
}

function Secrets({ path }: { path: string }) {
  const list = useQuery({ queryKey: ['secrets', path], queryFn: () => github<{ secrets: Secret[] }>(`${path}/secrets?per_page=100`) })
  const save = async (name: string, value: string) => {
    const key = await github<{ key_id: string; key: string }>(`${path}/secrets/public-key`)
    await send('PUT', `${path}/secrets/${encodeURIComponent(name)}`, { encrypted_value: await seal(value, key.key), key_id: key.key_id })
    await queries.invalidateQueries({ queryKey: ['secrets', path] })
  }
  const remove = async (name: string) => {
    await send('DELETE', `${path}/secrets/${name}`)
    await queries.invalidateQueries({ queryKey: ['secrets', path] })
  }
  return (
    <Part title="Secrets" hint="A job reads one as ${{ secrets.NAME }}. Values are never shown again." list={list} items={list.data?.secrets} save={save} remove={remove} secret />
  )
}

function Variables({ path }: { path: string }) {
  const list = useQuery({ queryKey: ['variables', path], queryFn: () => github<{ variables: Variable[] }>(`${path}/variables?per_page=100`) })
  const save = async (name: string, value: string) => {
    const known = list.data?.variables.some((v) => v.name === name.toUpperCase())
    if (known) await send('PATCH', `${path}/variables/${encodeURIComponent(name)}`, { value })
    else await send('POST', `${path}/variables`, { name, value })
    await queries.invalidateQueries({ queryKey: ['variables', path] })
  }
  const remove = async (name: string) => {
    await send('DELETE', `${path}/variables/${name}`)
    await queries.invalidateQueries({ queryKey: ['variables', path] })
  }
  return <Part title="Variables" hint="A job reads one as ${{ vars.NAME }}." list={list} items={list.data?.variables} save={save} remove={remove} />
}

function Part({ title, hint, list, items, save, remove, secret }: {
  title: string
  hint: string
  list: { error: unknown }
  items?: (Secret & { value?: string })[]
  save: (name: string, value: string) => Promise<void>
  remove: (name: string) => Promise<void>
  secret?: boolean
}) {
  const [name, setName] = useState('')
  const [value, setValue] = useState('')
  const [error, setError] = useState('')
  const attempt = async (f: () => Promise<void>) => {
    setError('')
    try {
      await f()
      return true
    } catch (e) {
      setError((e as Error).message)
      return false
    }
  }
  const Field = secret ? PasswordInput : TextInput
  const one = title.slice(0, -1).toLowerCase()
  return (
    <Paper withBorder p="md" component="section" aria-label={title}>
      <Title order={2} size="h4">{title}</Title>
      <Text size="sm" c="dimmed" mb="sm">{hint}</Text>
      {list.error ? <Problem error={list.error} /> : null}
      {items && items.length > 0 && (
        <Table mb="md" aria-label={title}>
          <Table.Tbody>
            {items.map((s) => (
              <Table.Tr key={s.name}>
                <Table.Td><Code>{s.name}</Code></Table.Td>
                {!secret && <Table.Td><Text size="sm" lineClamp={1}>{s.value}</Text></Table.Td>}
                <Table.Td><Text size="sm" c="dimmed">{ago(s.updated_at)}</Text></Table.Td>
                <Table.Td ta="right">
                  <Button size="compact-xs" variant="subtle" color="red" aria-label={`Remove ${s.name}`} onClick={() => void attempt(() => remove(s.name))}>Remove</Button>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
      <form
        onSubmit={async (e) => {
          e.preventDefault()
          if (await attempt(() => save(name, value))) {
            setName('')
            setValue('')
          }
        }}
      >
        <Group align="flex-end" gap="xs" wrap="wrap">
          <TextInput label="Name" value={name} onChange={(e) => setName(e.currentTarget.value)} placeholder="NAME" />
          <Field label="Value" value={value} onChange={(e) => setValue(e.currentTarget.value)} w={280} autoComplete="off" />
          <Button type="submit" disabled={name === '' || value === ''}>Save {one}</Button>
        </Group>
      </form>
      {error && <Alert color="red" mt="sm" role="alert">{error}</Alert>}
    </Paper>
  )
}

const roles = ['read', 'write', 'maintain', 'admin']

/** Who may do what with the repository. */
function Collaborators({ base }: { base: string }) {
  const [login, setLogin] = useState('')
  const [role, setRole] = useState('write')
  const [error, setError] = useState('')
  const list = useQuery({ queryKey: ['collaborators', base], queryFn: () => github<{ login: string; role_name: string }[]>(`${base}/collaborators?per_page=100`) })
  const change = async (method: string, who: string, body?: object) => {
    setError('')
    try {
      await send(method, `${base}/collaborators/${encodeURIComponent(who)}`, body)
      setLogin('')
    } catch (e) {
      setError((e as Error).message)
    }
    await queries.invalidateQueries({ queryKey: ['collaborators', base] })
  }
  if (list.error) return null // only who may write sees who else may
  return (
    <Paper withBorder p="md" component="section" aria-label="People">
      <Title order={2} size="h4">People</Title>
      <Text size="sm" c="dimmed" mb="sm">Read sees it, write pushes and runs, maintain manages environments, admin everything.</Text>
      <Table mb="md" aria-label="People">
        <Table.Tbody>
          {list.data?.map((c) => (
            <Table.Tr key={c.login}>
              <Table.Td fw={600}>{c.login}</Table.Td>
              <Table.Td><Text size="sm">{c.role_name}</Text></Table.Td>
              <Table.Td ta="right"><Button size="compact-xs" variant="subtle" color="red" aria-label={`Remove ${c.login}`} onClick={() => void change('DELETE', c.login)}>Remove</Button></Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      <form onSubmit={(e) => (e.preventDefault(), void change('PUT', login, { permission: role }))}>
        <Group align="flex-end" gap="xs">
          <TextInput label="Login" value={login} onChange={(e) => setLogin(e.currentTarget.value)} />
          <Select label="Role" data={roles} value={role} onChange={(r) => setRole(r ?? 'write')} allowDeselect={false} w={130} />
          <Button type="submit" disabled={login === ''}>Give access</Button>
        </Group>
      </form>
      {error && <Alert color="red" mt="sm" role="alert">{error}</Alert>}
    </Paper>
  )
}

// The pages of the server as a whole: runners and the audit log, which are its administrators', and one's own account.

import { Alert, Badge, Button, Checkbox, Code, CopyButton, Group, NumberInput, Paper, Stack, Table, Text, TextInput, Title } from '@mantine/core'
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { useEffect, useState, type ReactNode } from 'react'
import { github, native, queries, send, sendNative, type Me } from '../api'
import { ago } from '../format'
import { Empty, Problem, Waiting, WideTable } from '../parts'

function Page({ title, children, action }: { title: string; children: ReactNode; action?: ReactNode }) {
  useEffect(() => {
    document.title = `${title} · Penstock`
  }, [title])
  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h3">{title}</Title>
        {action}
      </Group>
      {children}
    </Stack>
  )
}

/** Does what may fail, and says why it did. */
function useAttempt(): [ReactNode, (f: () => Promise<unknown>) => Promise<void>] {
  const [error, setError] = useState<unknown>()
  return [
    error ? <Problem error={error} /> : null,
    async (f) => {
      setError(undefined)
      try {
        await f()
      } catch (e) {
        setError(e)
      }
      await queries.invalidateQueries()
    },
  ]
}

interface Runner {
  id: number
  name: string
  os: string
  status: string
  busy: boolean
  labels: { name: string }[]
}

const runnersPath = '/orgs/server/actions/runners'

export function Runners() {
  const [token, setToken] = useState('')
  const [problem, attempt] = useAttempt()
  const list = useQuery({ queryKey: ['runners'], queryFn: () => github<{ runners: Runner[] }>(`${runnersPath}?per_page=100`), refetchInterval: 5000 })
  const command = `PENSTOCK_RUNNER_TOKEN=${token} penstock runner --url ${location.origin} --labels LABEL`
  return (
    <Page title="Runners" action={<Button onClick={() => attempt(async () => setToken((await send<{ token: string }>('POST', `${runnersPath}/registration-token`)).token))}>Add a runner</Button>}>
      {problem}
      {list.isPending && <Waiting what="runners" />}
      {list.error && <Problem error={list.error} />}
      {token && (
        <Alert color="teal" title="Run this on the machine that is to take jobs" withCloseButton closeButtonLabel="Close" onClose={() => setToken('')}>
          <Code block className="command">{command}</Code>
          <Group mt="xs">
            <CopyButton value={command}>{({ copied, copy }) => <Button variant="default" onClick={copy}>{copied ? 'Copied' : 'Copy'}</Button>}</CopyButton>
            <Text size="sm" c="dimmed">The token is good for an hour. The runner needs no open port: it asks this server for work.</Text>
          </Group>
        </Alert>
      )}
      {list.data?.runners.length === 0 && <Empty title="No runners besides this server's own">Jobs run on the machine of the server. Another machine joins with one command, which “Add a runner” shows.</Empty>}
      {list.data && list.data.runners.length > 0 && (
        <WideTable width={520} label="Runners">
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Runner</Table.Th>
              <Table.Th>State</Table.Th>
              <Table.Th>Labels</Table.Th>
              <Table.Td />
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {list.data.runners.map((r) => (
              <Table.Tr key={r.id}>
                <Table.Td fw={600}>{r.name}</Table.Td>
                <Table.Td><Text size="sm">{r.status === 'offline' ? 'away' : r.busy ? 'has a job' : 'waits for jobs'}</Text></Table.Td>
                <Table.Td><Group gap={4}>{r.labels.map((l) => <Badge key={l.name} variant="light" color="gray" tt="none">{l.name}</Badge>)}</Group></Table.Td>
                <Table.Td ta="right"><Button size="compact-xs" variant="subtle" color="red" aria-label={`Remove ${r.name}`} onClick={() => attempt(() => send('DELETE', `${runnersPath}/${r.id}`))}>Remove</Button></Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </WideTable>
      )}
    </Page>
  )
}

interface AuditRecord {
  hash: string
  record: { seq: number; at: string; actor: string; action: string; target: string; details?: object }
}

const auditPage = 100

export function Audit() {
  const [filter, setFilter] = useState({ actor: '', action: '', target: '' })
  const [verified, setVerified] = useState<{ ok: boolean; records?: number; hash?: string; reason?: string }>()
  const [problem, attempt] = useAttempt()
  const list = useInfiniteQuery({
    queryKey: ['audit', filter],
    queryFn: ({ pageParam }) => native<AuditRecord[]>(`/audit?${new URLSearchParams({ newest: '1', limit: String(auditPage), ...(pageParam ? { before: String(pageParam) } : {}), ...filter })}`),
    initialPageParam: 0,
    getNextPageParam: (last) => (last.length < auditPage ? undefined : last.at(-1)!.record.seq),
    placeholderData: (before) => before,
  })
  const records = list.data?.pages.flat() ?? []
  return (
    <Page title="Audit log" action={<Button variant="default" onClick={() => attempt(async () => setVerified(await native('/audit/verify')))}>Verify</Button>}>
      {problem}
      {verified?.ok && (
        <Alert color="teal" title="The log is as it was written" role="status">
          {verified.records} records, each chained to the one before by its hash. Keep the last one elsewhere to prove it later: <Code>{verified.hash}</Code>
        </Alert>
      )}
      {verified && !verified.ok && <Alert color="red" title="The log was changed" role="alert">{verified.reason}</Alert>}
      <Group gap="xs">
        {(['actor', 'action', 'target'] as const).map((f) => (
          <TextInput key={f} label={f[0]!.toUpperCase() + f.slice(1)} value={filter[f]} onChange={(e) => setFilter({ ...filter, [f]: e.currentTarget.value })} />
        ))}
      </Group>
      {list.isPending && <Waiting what="the audit log" />}
      {list.error && <Problem error={list.error} />}
      {list.data && records.length === 0 && <Empty title="No such records">Filters are whole names: <Code>repo.create</Code>, a login, <Code>OWNER/NAME</Code>.</Empty>}
      {records.length > 0 && (
        <WideTable width={960} label="Audit log">
          <Table.Thead>
            <Table.Tr>
              <Table.Th>#</Table.Th>
              <Table.Th>When</Table.Th>
              <Table.Th>Who</Table.Th>
              <Table.Th>What</Table.Th>
              <Table.Th>Of</Table.Th>
              <Table.Th miw={280}>Details</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {records.map(({ hash, record: r }) => (
              <Table.Tr key={r.seq}>
                <Table.Td><Text size="sm" c="dimmed" title={hash}>{r.seq}</Text></Table.Td>
                <Table.Td><Text size="sm" title={r.at}>{ago(r.at)}</Text></Table.Td>
                <Table.Td>{r.actor}</Table.Td>
                <Table.Td><Code>{r.action}</Code></Table.Td>
                <Table.Td>{r.target}</Table.Td>
                <Table.Td><Text size="xs" c="dimmed" ff="monospace" className="wrap">{r.details && JSON.stringify(r.details)}</Text></Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </WideTable>
      )}
      {list.hasNextPage && <Button variant="default" loading={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>Earlier records</Button>}
    </Page>
  )
}

interface Token {
  id: number
  name: string
  token?: string
  scopes: string[]
  created: string
  expires?: string
  used?: string
}

const scopes = [
  ['repo', 'repositories: git, runs, secrets, everything in them'], ['workflow', 'change workflow files'], ['delete_repo', 'remove repositories'], ['admin:org', 'runners'],
  ['user', 'this account and its tokens'], ['audit_log', 'the audit log'], ['site_admin', 'people'],
] as const

export function Account() {
  const me = useQuery({ queryKey: ['me'], queryFn: () => github<Me>('/user') })
  if (!me.data) return null
  return (
    <Page title={me.data.login}>
      <Tokens login={me.data.login} />
      {me.data.site_admin && <People me={me.data.login} />}
    </Page>
  )
}

function Tokens({ login }: { login: string }) {
  const base = `/users/${login}/tokens`
  const [name, setName] = useState('')
  const [days, setDays] = useState<number | string>(90)
  const [chosen, setChosen] = useState<string[]>(['repo', 'workflow'])
  const [made, setMade] = useState<Token>()
  const [problem, attempt] = useAttempt()
  const list = useQuery({ queryKey: ['tokens', login], queryFn: () => native<Token[]>(base) })
  const add = () =>
    attempt(async () => {
      const expires = Number(days) > 0 ? new Date(Date.now() + Number(days) * 86_400_000).toISOString() : undefined
      setMade(await sendNative<Token>('POST', base, { name, scopes: chosen, expires }))
      setName('')
    })
  return (
    <Paper withBorder p="md" component="section" aria-label="Tokens">
      <Title order={2} size="h4">Tokens</Title>
      <Text size="sm" c="dimmed" mb="sm">For git, gh and scripts. A token is shown once, when it is made.</Text>
      {problem}
      {list.error && <Problem error={list.error} />}
      {made?.token && (
        <Alert color="teal" title={`The token ${made.name}`} mb="md" role="status">
          <Group gap="xs">
            <Code>{made.token}</Code>
            <CopyButton value={made.token}>{({ copied, copy }) => <Button variant="default" onClick={copy}>{copied ? 'Copied' : 'Copy'}</Button>}</CopyButton>
          </Group>
        </Alert>
      )}
      {list.data && list.data.length > 0 && (
        <WideTable width={560} label="Tokens">
          <Table.Tbody>
            {list.data.map((t) => (
              <Table.Tr key={t.id}>
                <Table.Td fw={600}>{t.name}</Table.Td>
                <Table.Td><Text size="sm" c="dimmed">{t.scopes.length === scopes.length ? 'everything' : t.scopes.join(', ')}</Text></Table.Td>
                <Table.Td><Text size="sm" c="dimmed">{t.used ? `used ${ago(t.used)}` : 'never used'}</Text></Table.Td>
                <Table.Td><Text size="sm" c="dimmed">{t.expires ? `until ${t.expires.slice(0, 10)}` : 'does not expire'}</Text></Table.Td>
                <Table.Td ta="right"><Button size="compact-xs" variant="subtle" color="red" aria-label={`Remove ${t.name}`} onClick={() => attempt(() => sendNative('DELETE', `${base}/${t.id}`))}>Remove</Button></Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </WideTable>
      )}
      <form onSubmit={(e) => (e.preventDefault(), void add())}>
        <Stack gap="xs" mt="md">
          <Group align="flex-end" gap="xs">
            <TextInput label="Name" value={name} onChange={(e) => setName(e.currentTarget.value)} />
            <NumberInput label="Days until it expires" description="0 for never" min={0} max={3650} value={days} onChange={setDays} />
          </Group>
          <Checkbox.Group label="What it is good for" value={chosen} onChange={setChosen}>
            <Stack gap={4} mt={4}>{scopes.map(([scope, what]) => <Checkbox key={scope} value={scope} label={`${scope}: ${what}`} />)}</Stack>
          </Checkbox.Group>
          <div><Button type="submit" disabled={name === '' || chosen.length === 0}>Make a token</Button></div>
        </Stack>
      </form>
    </Paper>
  )
}

function People({ me }: { me: string }) {
  const [login, setLogin] = useState('')
  const [admin, setAdmin] = useState(false)
  const [made, setMade] = useState<{ login: string; link: string }>()
  const [problem, attempt] = useAttempt()
  const list = useQuery({ queryKey: ['users'], queryFn: () => native<{ login: string; admin: boolean; created: string }[]>('/users') })
  // A link signs in with a token of its own: who gets it makes others and removes that one.
  const invite = async (who: string) => {
    const token = await sendNative<Token>('POST', `/users/${who}/tokens`, { name: 'invitation', scopes: ['repo', 'workflow', 'user'], expires: new Date(Date.now() + 7 * 86_400_000).toISOString() })
    setMade({ login: who, link: `${location.origin}/#token=${token.token}` })
  }
  return (
    <Paper withBorder p="md" component="section" aria-label="People">
      <Title order={2} size="h4">People</Title>
      <Text size="sm" c="dimmed" mb="sm">Who can sign in. What they may do with a repository is in its settings; administrators may do everything.</Text>
      {problem}
      {list.error && <Problem error={list.error} />}
      {made && (
        <Alert color="teal" title={`Give this link to ${made.login}: it signs in, for a week`} mb="md" role="status">
          <Code block className="command">{made.link}</Code>
        </Alert>
      )}
      <Table mb="md" aria-label="People">
        <Table.Tbody>
          {list.data?.map((u) => (
            <Table.Tr key={u.login}>
              <Table.Td><Text span fw={600}>{u.login}</Text> {u.admin && <Badge variant="light" color="gray" tt="none">administrator</Badge>}</Table.Td>
              <Table.Td ta="right">
                <Button size="compact-xs" variant="subtle" aria-label={`Link for ${u.login}`} onClick={() => attempt(() => invite(u.login))}>Link to sign in</Button>
                {u.login !== me && <Button size="compact-xs" variant="subtle" color="red" aria-label={`Remove ${u.login}`} onClick={() => attempt(() => sendNative('DELETE', `/users/${u.login}`))}>Remove</Button>}
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      <form
        onSubmit={(e) => {
          e.preventDefault()
          void attempt(async () => {
            await sendNative('POST', '/users', { login, admin })
            await invite(login)
            setLogin('')
          })
        }}
      >
        <Group align="flex-end" gap="xs">
          <TextInput label="Login" value={login} onChange={(e) => setLogin(e.currentTarget.value)} />
          <Checkbox label="Administrator" mb={8} checked={admin} onChange={(e) => setAdmin(e.currentTarget.checked)} />
          <Button type="submit" disabled={login === ''}>Add a person</Button>
        </Group>
      </form>
    </Paper>
  )
}

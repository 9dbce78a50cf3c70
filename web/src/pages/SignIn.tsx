import { Alert, Button, Center, Code, Paper, PasswordInput, Stack, Text, Title } from '@mantine/core'
import { useEffect, useState } from 'react'
import { queries, sendNative } from '../api'

export function SignIn() {
  const [token, setToken] = useState('')
  const [error, setError] = useState('')
  const [busy, setBusy] = useState(false)
  const enter = async (with_: string) => {
    setBusy(true)
    setError('')
    try {
      await sendNative('POST', '/login', { token: with_ })
      await queries.resetQueries()
    } catch (e) {
      setError((e as Error).message)
    }
    setBusy(false)
  }
  useEffect(() => {
    document.title = 'Sign in · Penstock'
    // The URL that the first start prints has the token behind the #, where it is sent to nobody.
    const m = /^#token=(pst_\w+)$/.exec(location.hash)
    if (m) {
      history.replaceState(null, '', location.pathname)
      void enter(m[1]!)
    }
  }, [])
  return (
    <Center mih="80vh" p="md" component="main">
      <Paper withBorder p="xl" w={420} maw="100%">
        <form
          onSubmit={(e) => {
            e.preventDefault()
            void enter(token)
          }}
        >
          <Stack>
            <Title order={1} size="h3">
              Sign in to Penstock
            </Title>
            <PasswordInput label="Token" placeholder="pst_..." autoFocus value={token} onChange={(e) => setToken(e.currentTarget.value)} autoComplete="current-password" />
            {error && (
              <Alert color="red" role="alert">
                {error}
              </Alert>
            )}
            <Button type="submit" loading={busy} disabled={token.trim() === ''}>
              Sign in
            </Button>
            <Text size="sm" c="dimmed">
              The first start of the server printed a token for the administrator, who makes others with <Code>penstock token create</Code>.
            </Text>
          </Stack>
        </form>
      </Paper>
    </Center>
  )
}

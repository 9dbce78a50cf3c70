import '@mantine/core/styles.css'
import './styles.css'
import { Anchor, AppShell, Button, Checkbox, Group, MantineProvider, Text, createTheme, type CSSVariablesResolver } from '@mantine/core'
import { QueryClientProvider, useQuery } from '@tanstack/react-query'
import { Link, Outlet, RouterProvider, createRootRoute, createRoute, createRouter } from '@tanstack/react-router'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { APIError, github, queries, sendNative, type Me } from './api'
import { Caches } from './pages/Caches'
import { EnvironmentPage } from './pages/Environment'
import { Environments } from './pages/Environments'
import { PullPage, Pulls } from './pages/Pulls'
import { ReleasePage } from './pages/Release'
import { Repositories } from './pages/Repositories'
import { RunPage } from './pages/Run'
import { Runs } from './pages/Runs'
import { Account, Audit, Runners } from './pages/Server'
import { Settings } from './pages/Settings'
import { SignIn } from './pages/SignIn'
import { Problem, Waiting } from './parts'

const theme = createTheme({
  primaryColor: 'teal',
  primaryShade: 9,
  components: { Checkbox: Checkbox.extend({ defaultProps: { radius: 'sm' } }), Button: Button.extend({ defaultProps: { size: 'xs' } }) },
  fontFamily: 'system-ui, -apple-system, "Segoe UI", sans-serif',
  fontFamilyMonospace: 'ui-monospace, SFMono-Regular, Menlo, Consolas, monospace',
  defaultRadius: 'md',
})

// Quiet text, links and pressed buttons as dark, or as light, as text of that size must be to be read (WCAG AA).
const variables: CSSVariablesResolver = () => ({
  variables: {},
  light: { '--mantine-color-teal-filled-hover': '#066649', '--mantine-color-dimmed': '#59636e', '--mantine-color-placeholder': '#59636e', '--mantine-color-anchor': '#08746f', '--mantine-color-error': '#c92a2a' },
  dark: { '--mantine-color-teal-filled-hover': '#066649', '--mantine-color-dimmed': '#a0a8b0', '--mantine-color-placeholder': '#a0a8b0', '--mantine-color-anchor': '#4ecdc4', '--mantine-color-error': '#ff8787' },
})

function Shell() {
  const me = useQuery({ queryKey: ['me'], queryFn: () => github<Me>('/user') })
  if (me.isPending) return <Waiting what="Penstock" />
  if (me.error instanceof APIError && me.error.status === 401) return <SignIn />
  if (me.error) return <Problem error={me.error} />
  return (
    <AppShell header={{ height: 52 }} padding="md">
      <AppShell.Header>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Anchor component={Link} to="/" underline="never" c="inherit" className="brand">
            <img src="/icon.svg" width="24" height="24" alt="Penstock" />
            <Text fw={700} visibleFrom="xs">Penstock</Text>
          </Anchor>
          <Group gap="xs" wrap="nowrap">
            {me.data.site_admin && (
              <nav aria-label="The server" className="server">
                <Link to="/runners">Runners</Link>
                <Link to="/audit">Audit</Link>
              </nav>
            )}
            <Anchor component={Link} to="/account" size="sm" className="account">
              {me.data.login}
            </Anchor>
            <Button
              variant="default"
              onClick={async () => {
                await sendNative('POST', '/logout')
                await queries.resetQueries()
              }}
            >
              Sign out
            </Button>
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Main>
        <Outlet />
      </AppShell.Main>
    </AppShell>
  )
}

const root = createRootRoute({ component: Shell, notFoundComponent: () => <Problem error="There is no such page." /> })
const page = (path: string, component: () => React.ReactNode) => createRoute({ getParentRoute: () => root, path, component })
const router = createRouter({
  routeTree: root.addChildren([
    page('/', Repositories),
    page('/runners', Runners),
    page('/audit', Audit),
    page('/account', Account),
    page('/$owner/$repo', Runs),
    page('/$owner/$repo/actions', Runs),
    page('/$owner/$repo/actions/runs/$run', RunPage),
    page('/$owner/$repo/actions/runs/$run/job/$job', RunPage),
    page('/$owner/$repo/actions/runs/$run/attempts/$attempt', RunPage),
    page('/$owner/$repo/actions/runs/$run/attempts/$attempt/job/$job', RunPage),
    page('/$owner/$repo/pulls', Pulls),
    page('/$owner/$repo/pull/$number', PullPage),
    page('/$owner/$repo/environments', Environments),
    page('/$owner/$repo/environments/$environment', EnvironmentPage),
    page('/$owner/$repo/environments/$environment/$number', ReleasePage),
    page('/$owner/$repo/caches', Caches),
    page('/$owner/$repo/settings', Settings),
  ]),
})

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto">
      <QueryClientProvider client={queries}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
)

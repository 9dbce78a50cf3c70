import '@mantine/core/styles.css'
import './styles.css'
import { Anchor, AppShell, Button, Checkbox, Group, MantineProvider, Text, createTheme, type CSSVariablesResolver } from '@mantine/core'
import { QueryClientProvider, useQuery } from '@tanstack/react-query'
import { Link, Outlet, RouterProvider, createRootRoute, createRoute, createRouter, lazyRouteComponent } from '@tanstack/react-router'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { APIError, github, queries, sendNative, type Me } from './api'
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
  light: { '--mantine-color-teal-filled-hover': '#066649', '--mantine-color-dimmed': '#59636e', '--mantine-color-placeholder': '#59636e', '--mantine-color-anchor': '#08746f', '--mantine-color-error': '#c92a2a', '--mantine-color-red-light-color': '#b02525' },
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
const page = (path: string, component: ReturnType<typeof lazyRouteComponent>) => createRoute({ getParentRoute: () => root, path, component })
const runs = lazyRouteComponent(() => import('./pages/Runs'), 'Runs')
const run = lazyRouteComponent(() => import('./pages/Run'), 'RunPage')
const server = () => import('./pages/Server')
const pulls = () => import('./pages/Pulls')
const router = createRouter({
  defaultPreload: 'intent',
  routeTree: root.addChildren([
    page('/', lazyRouteComponent(() => import('./pages/Repositories'), 'Repositories')),
    page('/runners', lazyRouteComponent(server, 'Runners')),
    page('/audit', lazyRouteComponent(server, 'Audit')),
    page('/account', lazyRouteComponent(server, 'Account')),
    page('/$owner/$repo', runs),
    page('/$owner/$repo/actions', runs),
    page('/$owner/$repo/actions/runs/$run', run),
    page('/$owner/$repo/actions/runs/$run/job/$job', run),
    page('/$owner/$repo/actions/runs/$run/attempts/$attempt', run),
    page('/$owner/$repo/actions/runs/$run/attempts/$attempt/job/$job', run),
    page('/$owner/$repo/pulls', lazyRouteComponent(pulls, 'Pulls')),
    page('/$owner/$repo/pull/$number', lazyRouteComponent(pulls, 'PullPage')),
    page('/$owner/$repo/environments', lazyRouteComponent(() => import('./pages/Environments'), 'Environments')),
    page('/$owner/$repo/environments/$environment', lazyRouteComponent(() => import('./pages/Environment'), 'EnvironmentPage')),
    page('/$owner/$repo/environments/$environment/$number', lazyRouteComponent(() => import('./pages/Release'), 'ReleasePage')),
    page('/$owner/$repo/caches', lazyRouteComponent(() => import('./pages/Caches'), 'Caches')),
    page('/$owner/$repo/settings', lazyRouteComponent(() => import('./pages/Settings'), 'Settings')),
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

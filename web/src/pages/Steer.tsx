import { Alert, Button, Checkbox, Group, Modal, NumberInput, Slider, Stack, Text, Textarea } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useId, useState, type ReactNode } from 'react'
import { github, sendNative, type Me } from '../api'
import { consequence, mayOpen, refusal, type Action, type Gate, type Release } from '../release'

const names: Record<Action, string> = { promote: 'Promote', pause: 'Pause', resume: 'Resume', weight: 'Set weight', abort: 'Abort', rollback: 'Roll back' }

/** The buttons that steer a release. Each says what will happen before it does; one that makes no sense now says why. */
export function Steer({ name, release: r }: { name: string; release: Release }) {
  const [asked, ask] = useState<Action>()
  const [why, setWhy] = useState('')
  const told = useId()
  const shown: Action[] = ['promote', r.paused ? 'resume' : 'pause', 'weight', 'abort', 'rollback']
  return (
    <Stack gap={6}>
      <Group gap="xs" role="group" aria-label={`Steer v${r.number}`}>
        {shown.map((a) => {
          const no = refusal(r, a)
          return (
            <Button
              key={a === 'resume' ? 'pause' : a} variant={a === 'promote' || a === 'resume' ? 'filled' : 'default'} data-disabled={no !== '' || undefined} aria-disabled={no !== ''} title={no || undefined}
              aria-describedby={no !== '' && why === no ? told : undefined} onClick={() => (no ? setWhy(no) : (setWhy(''), ask(a)))}
            >
              {names[a]}
            </Button>
          )
        })}
      </Group>
      <Text size="sm" c="dimmed" role="status" id={told} hidden={why === ''}>{why}</Text>
      {asked && <Confirm key={asked} name={name} release={r} action={asked} close={() => ask(undefined)} />}
    </Stack>
  )
}

function Confirm({ name, release: r, action, close }: { name: string; release: Release; action: Action; close: () => void }) {
  const [reason, setReason] = useState('')
  const [weight, setWeight] = useState(r.weight)
  const [force, setForce] = useState(false)
  const fails = (r.failed_checks ?? 0) > 0 || (r.checks ?? []).some((c) => c.verdict === 'fail')
  const restores = action === 'rollback' && r.phase !== 'watching'
  const path = restores ? `environments/${encodeURIComponent(r.plan.environment)}/rollback` : `releases/${r.id}/${action}`
  const body = action === 'weight' ? { weight } : action === 'promote' ? { force } : action === 'abort' || action === 'rollback' ? { reason } : {}
  return (
    <Ask
      title={`${names[action]}: v${r.number} in ${r.plan.environment}`} button={action === 'weight' ? `Set to ${weight} %` : names[action]} danger={action === 'abort' || action === 'rollback'}
      act={() => sendNative('POST', `/repos/${name}/${path}`, body)} close={close}
    >
      <Text size="sm">{consequence(r, action)}</Text>
      {action === 'weight' && (
        <Group wrap="nowrap" align="flex-end">
          <Slider flex={1} mb={8} value={weight} onChange={setWeight} thumbLabel="Weight" label={(v) => `${v} %`} />
          <NumberInput label="Percent" w={90} min={0} max={100} clampBehavior="strict" allowDecimal={false} value={weight} onChange={(v) => setWeight(Number(v) || 0)} data-autofocus />
        </Group>
      )}
      {action === 'promote' && fails && <Checkbox label="Promote it although checks fail" checked={force} onChange={(e) => setForce(e.currentTarget.checked)} />}
      {(action === 'abort' || action === 'rollback') && <Textarea label="Reason" description="Kept in the timeline and the audit log" value={reason} onChange={(e) => setReason(e.currentTarget.value)} data-autofocus />}
    </Ask>
  )
}

/** Asks for a word before something is done, and shows why it was not. */
export function Ask({ title, button, danger, act, close, children }: { title: string; button: string; danger?: boolean; act: () => Promise<unknown>; close: () => void; children: ReactNode }) {
  const [error, setError] = useState('')
  const [busy, setBusy] = useState(false)
  const [from] = useState(() => document.activeElement) // what had the focus gets it again, once the dialog is gone
  const gone = () => {
    close()
    setTimeout(() => from instanceof HTMLElement && from.focus())
  }
  return (
    <Modal opened onClose={gone} returnFocus={false} title={title} closeButtonProps={{ 'aria-label': 'Close' }}>
      <form
        onSubmit={async (e) => {
          e.preventDefault()
          setError('')
          setBusy(true)
          try {
            await act()
            gone()
          } catch (e) {
            setError((e as Error).message)
            setBusy(false)
          }
        }}
      >
        <Stack>
          {children}
          {error && <Alert color="red" role="alert">{error}</Alert>}
          <Group justify="flex-end">
            <Button variant="default" onClick={gone}>Cancel</Button>
            <Button type="submit" color={danger ? 'red' : undefined} loading={busy}>{button}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  )
}

/** What waits for somebody's word, and the form to give it. */
export function GateForm({ name, release: r, gate, may }: { name: string; release: Release; gate: Gate; may: boolean }) {
  const [open, setOpen] = useState(false)
  const [comment, setComment] = useState('')
  const [error, setError] = useState('')
  const me = useQuery({ queryKey: ['me'], queryFn: () => github<Me>('/user') })
  if (!me.data || !mayOpen(gate, me.data.login, may)) return null
  const answer = (action: 'approve' | 'reject') => async () => {
    setError('')
    try {
      await sendNative('POST', `/repos/${name}/releases/${r.id}/${action}`, { reason: comment })
      setOpen(false)
    } catch (e) {
      setError((e as Error).message)
    }
  }
  return (
    <>
      <Button onClick={() => setOpen(true)}>Review</Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={`Review v${r.number} in ${r.plan.environment}`} closeButtonProps={{ 'aria-label': 'Close' }}>
        <Stack>
          <Text size="sm">{gate.reason}. Approved, the release goes on; rejected, it ends, and what it has started is taken away.</Text>
          <Textarea label="Comment" value={comment} onChange={(e) => setComment(e.currentTarget.value)} data-autofocus />
          {error && <Alert color="red" role="alert">{error}</Alert>}
          <Group justify="flex-end">
            <Button color="red" variant="light" onClick={answer('reject')}>Reject</Button>
            <Button onClick={answer('approve')}>Approve</Button>
          </Group>
        </Stack>
      </Modal>
    </>
  )
}

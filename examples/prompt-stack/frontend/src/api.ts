export interface Prompt {
  id: number;
  name: string;
  text: string;
  blanks: string[];
}

/** What the back end said when it refused, in words for the reader. */
export class Refused extends Error {}

export function listPrompts(): Promise<Prompt[]> {
  return call("/prompts");
}

export function createPrompt(name: string, text: string): Promise<Prompt> {
  return call("/prompts", { name, text });
}

export async function fillPrompt(id: number, values: Record<string, string>): Promise<string> {
  const filled = await call<{ text: string }>(`/prompts/${id}/fill`, { values });
  return filled.text;
}

async function call<T>(path: string, body?: unknown): Promise<T> {
  const init: RequestInit = body
    ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }
    : {};
  const answer = await fetch(`/api${path}`, init);
  const json: unknown = await answer.json();
  if (!answer.ok) throw new Refused(reason(json) ?? `${path} answered ${answer.status}`);
  return json as T;
}

// The back end says why in `detail`: a sentence, or one entry for each field that is wrong.
function reason(json: unknown): string | undefined {
  const detail = (json as { detail?: unknown } | null)?.detail;
  if (typeof detail === "string") return detail;
  if (!Array.isArray(detail)) return undefined;
  return detail
    .map((entry: { loc?: unknown[]; msg?: string }) => `${String(entry.loc?.at(-1))}: ${entry.msg}`)
    .join("; ");
}

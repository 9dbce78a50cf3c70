import { useState } from "react";
import { fillPrompt, type Prompt } from "./api";

export function PromptCard({ prompt }: { prompt: Prompt }) {
  const [filled, setFilled] = useState("");

  async function fill(form: FormData) {
    const values = Object.fromEntries(prompt.blanks.map((blank) => [blank, String(form.get(blank))]));
    setFilled(await fillPrompt(prompt.id, values).catch((error: Error) => error.message));
  }

  return (
    <article>
      <h2>{prompt.name}</h2>
      <p>{prompt.text}</p>
      <form action={fill}>
        {prompt.blanks.map((blank) => (
          <input key={blank} name={blank} aria-label={blank} placeholder={blank} required />
        ))}
        <button>Fill</button>
      </form>
      <output>{filled}</output>
    </article>
  );
}

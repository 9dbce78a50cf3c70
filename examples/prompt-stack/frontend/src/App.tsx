import { useEffect, useState } from "react";
import { createPrompt, listPrompts, type Prompt } from "./api";
import { PromptCard } from "./PromptCard";

export function App() {
  const [prompts, setPrompts] = useState<Prompt[]>([]);
  const [problem, setProblem] = useState("");

  useEffect(() => {
    listPrompts().then(setPrompts, (error: Error) => setProblem(error.message));
  }, []);

  async function add(form: FormData) {
    try {
      const created = await createPrompt(String(form.get("name")), String(form.get("text")));
      setPrompts((known) => [...known, created].sort((a, b) => (a.name < b.name ? -1 : 1)));
      setProblem("");
    } catch (error) {
      setProblem((error as Error).message);
    }
  }

  return (
    <main>
      <h1>Prompts</h1>
      {problem && <p role="alert">{problem}</p>}
      {prompts.map((prompt) => (
        <PromptCard key={prompt.id} prompt={prompt} />
      ))}
      <form action={add}>
        <input name="name" aria-label="Name" placeholder="explain" required />
        <textarea name="text" aria-label="Text" placeholder="Explain {topic} to {reader}" required />
        <button>Add</button>
      </form>
    </main>
  );
}

import { cleanup, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, expect, test, vi } from "vitest";
import { App } from "./App";
import * as api from "./api";

afterEach(cleanup);

const explain = { id: 1, name: "explain", text: "Explain {topic}", blanks: ["topic"] };

function enter(label: string, value: string) {
  fireEvent.change(screen.getByLabelText(label), { target: { value } });
}

test("lists the prompts", async () => {
  vi.spyOn(api, "listPrompts").mockResolvedValue([explain]);
  render(<App />);
  expect((await screen.findByRole("heading", { level: 2 })).textContent).toBe("explain");
});

test("adds a prompt in its place", async () => {
  vi.spyOn(api, "listPrompts").mockResolvedValue([explain]);
  const create = vi.spyOn(api, "createPrompt").mockResolvedValue({ id: 2, name: "ask", text: "Why?", blanks: [] });
  render(<App />);
  await screen.findByText("explain");

  enter("Name", "ask");
  enter("Text", "Why?");
  fireEvent.click(screen.getByText("Add"));

  await screen.findByText("ask");
  expect(create).toHaveBeenCalledWith("ask", "Why?");
  expect(screen.getAllByRole("heading", { level: 2 }).map((heading) => heading.textContent)).toEqual([
    "ask",
    "explain",
  ]);
});

test("says why a prompt was refused", async () => {
  vi.spyOn(api, "listPrompts").mockResolvedValue([]);
  vi.spyOn(api, "createPrompt").mockRejectedValue(new api.Refused("there is a prompt named ask"));
  render(<App />);

  enter("Name", "ask");
  enter("Text", "Why?");
  fireEvent.click(screen.getByText("Add"));

  expect((await screen.findByRole("alert")).textContent).toBe("there is a prompt named ask");
});

test("fills the blanks of a prompt", async () => {
  vi.spyOn(api, "listPrompts").mockResolvedValue([explain]);
  const fill = vi.spyOn(api, "fillPrompt").mockResolvedValue("Explain tides");
  render(<App />);
  await screen.findByText("explain");

  enter("topic", "tides");
  fireEvent.click(screen.getByText("Fill"));

  expect((await screen.findByText("Explain tides")).tagName).toBe("OUTPUT");
  expect(fill).toHaveBeenCalledWith(1, { topic: "tides" });
});

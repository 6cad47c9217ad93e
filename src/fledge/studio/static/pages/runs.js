// The page Runs: the list of all runs, one run with its curves, and the form that starts training.
import { openList } from "./runs-list.js";
import { openRun } from "./runs-view.js";
import { openForm } from "./runs-form.js";

export const title = "Runs";

export function open(root, parameters) {
  if (parameters.new !== undefined) return openForm(root, parameters);
  return parameters.run ? openRun(root, parameters) : openList(root, parameters);
}
